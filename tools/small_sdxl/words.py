"""The words of the captions: what each thing may be called, and words that name nothing that can be drawn."""

from __future__ import annotations

from typing import Final

Words = dict[str, tuple[str, ...]]

COLOUR_WORDS: Final[Words] = {
    "gray": ("gray", "grey"),
    "turquoise": ("turquoise", "turquoise", "cyan", "teal"),
    "purple": ("purple", "purple", "violet"),
}
SUBJECT_WORDS: Final[Words] = {
    "circle": ("circle", "circle", "disc", "ball"),
    "square": ("square",),
    "diamond": ("diamond", "diamond", "rhombus"),
    "cat": ("cat", "cat", "cat", "kitten"),
    "dog": ("dog", "dog", "dog", "puppy"),
    "rabbit": ("rabbit", "rabbit", "bunny"),
    "bear": ("bear", "bear", "teddy bear"),
    "astronaut": ("astronaut", "astronaut", "spaceman"),
    "boat": ("boat", "sailing boat", "ship"),
    "moon": ("moon", "crescent moon"),
    "woman": ("woman", "woman", "girl", "lady"),
    "man": ("man", "man", "boy", "guy"),
    "rocket": ("rocket", "rocket", "spaceship"),
    "house": ("house", "house", "house", "cottage"),
    "car": ("car", "car", "automobile"),
}
BACKGROUND_WORDS: Final[Words] = {
    "meadow": (
        "on green grass",
        "in a meadow",
        "on the grass",
        "on a green field",
        "in a park",
        "in the garden",
    ),
    "beach": ("on the beach", "on a beach", "on the sand by the sea", "at the beach"),
    "night": ("in the night sky", "at night", "under the stars", "in a starry night"),
    "space": ("in space", "in outer space", "among the stars", "in the galaxy"),
    "lunar": ("on the moon", "on the moon", "on the surface of the moon", "on a moon"),
    "snow": ("in the snow", "on the snow", "in winter", "in a snowy landscape"),
    "city": ("in the city", "in a city", "in the street", "in town"),
    "sea": ("on the sea", "in the ocean", "in the sea", "on the water"),
    "underwater": ("underwater", "under water", "under the sea", "at the bottom of the sea"),
    "desert": ("in the desert", "in a desert", "on sand dunes"),
    "room": ("in a room", "in the room", "at home", "in the living room", "in the kitchen"),
    "forest": ("in the forest", "in a forest", "in the woods", "among trees"),
    "mountains": ("in the mountains", "in front of mountains", "on a mountain", "in the alps"),
}
#: A background that is the whole picture.
LANDSCAPE_WORDS: Final[Words] = {
    "meadow": ("a meadow", "green grass", "a green field", "a park"),
    "beach": ("a beach", "the beach", "a sandy beach"),
    "night": ("the night sky", "a starry night", "a starry sky"),
    "space": ("space", "outer space", "the galaxy"),
    "lunar": ("the surface of the moon", "a moon landscape"),
    "snow": ("snow", "a winter landscape", "a snowy landscape"),
    "city": ("a city", "a city skyline", "a street"),
    "sea": ("the sea", "the ocean", "a seascape"),
    "underwater": ("an underwater scene", "the bottom of the sea"),
    "desert": ("a desert", "the desert", "sand dunes"),
    "room": ("a room", "a living room", "an empty room"),
    "forest": ("a forest", "the woods", "a forest landscape"),
    "mountains": ("mountains", "a mountain landscape", "the mountains"),
}
POSITION_WORDS: Final[Words] = {
    "centre": ("in the centre", "in the middle", "in the center"),
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top", "in the upper part", "up high"),
    "bottom": ("at the bottom", "in the lower part", "down low"),
}
SIZE_WORDS: Final[Words] = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "big", "huge", "giant"),
}
WEARING_WORDS: Final[Words] = {
    "headphones": ("wearing headphones", "with headphones", "listening to music with headphones"),
    "hat": ("wearing a hat", "with a hat", "in a hat"),
    "crown": ("wearing a crown", "with a crown", "with a golden crown"),
    "scarf": ("wearing a scarf", "with a scarf", "in a red scarf"),
    "sunglasses": ("wearing sunglasses", "with sunglasses", "in sunglasses"),
}
RELATION_WORDS: Final[Words] = {
    "beside": (
        "{one} and {two}", "{one} and {two}", "{one} next to {two}", "{one} beside {two}",
        "{one} to the left of {two}", "{two} to the right of {one}", "{one} with {two}",
    ),
    "above": ("{one} above {two}", "{one} over {two}", "{two} below {one}", "{two} under {one}"),
    "front": ("{one} in front of {two}", "{one} before {two}", "{two} behind {one}"),
}  # fmt: skip
TIME_WORDS: Final[Words] = {
    "sunset": ("at sunset", "at sunset", "in the evening", "at dusk"),
    "dawn": ("at dawn", "at sunrise", "in the early morning"),
    "night": ("at night", "at night", "by night", "at midnight"),
}
WEATHER_WORDS: Final[Words] = {
    "rain": ("in the rain", "in the rain", "on a rainy day", "while it rains"),
    "snowfall": ("in falling snow", "while it snows", "in a snowstorm", "with snowflakes"),
    "clouds": ("under a cloudy sky", "with clouds in the sky", "on a cloudy day"),
    "rainbow": ("under a rainbow", "with a rainbow", "with a rainbow in the sky"),
}
#: Each style as words before a caption, and after it.
STYLE_LEADS: Final[Words] = {
    "black and white": ("a black and white photo of ", "a black and white picture of "),
    "sepia": ("a vintage photo of ", "a sepia photo of "),
    "pastel": ("a watercolor of ", "a watercolor painting of ", "a pastel drawing of "),
    "pixel art": ("pixel art of ", "a pixel art picture of "),
    "sketch": ("a pencil sketch of ", "a sketch of ", "a line drawing of "),
}
STYLE_TAILS: Final[Words] = {
    "black and white": ("black and white", "in black and white", "monochrome"),
    "sepia": ("sepia", "vintage photo", "in sepia"),
    "pastel": ("watercolor", "pastel colors", "watercolor style", "in pastel colors"),
    "pixel art": ("pixel art", "8-bit pixel art", "pixel art style"),
    "sketch": ("pencil sketch", "line art", "as a sketch", "line drawing"),
}
LEADS: Final = (
    "a photo of ", "an illustration of ", "a picture of ", "a drawing of ", "flat illustration of ", "an image of ",
    "a painting of ", "photo of ", "a portrait of ", "draw ", "a close-up of ",
)  # fmt: skip
TRIMMINGS: Final = (
    "highly detailed", "8k", "4k", "sunlit", "high quality", "masterpiece", "beautiful", "digital art", "simple",
    "vector art", "best quality", "minimal", "colorful", "sharp focus", "flat design", "cute", "cartoon style",
    "trending on artstation", "soft light", "award winning", "cinematic lighting", "photorealistic", "ultra realistic",
    "hd", "hyperdetailed", "studio lighting", "concept art", "intricate", "professional", "3d render", "oil painting",
    "anime", "bokeh", "wallpaper",
)  # fmt: skip
PRAISE: Final = (
    "pretty", "cute", "nice", "lovely", "beautiful", "happy", "funny", "simple", "friendly", "old", "new", "fluffy",
    "majestic", "young", "magical", "adorable", "shiny", "wooden", "sad", "angry",
)  # fmt: skip
DOINGS: Final = (
    "is dancing", "dancing", "sitting", "standing", "smiling", "is smiling", "looking at you", "running", "is running",
    "playing", "jumping", "walking", "sleeping", "flying", "swimming", "having fun", "is waiting", "reading a book",
    "is singing", "eating", "riding a bike", "waving",
)  # fmt: skip
#: Doings with something that cannot be drawn.
HANDLING: Final = (
    "with {thing}",
    "holding {thing}",
    "eating {thing}",
    "riding {thing}",
    "playing with {thing}",
)
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_NOUNS: Final = """
    elephant tiger lion giraffe horse cow pig sheep goat chicken duck goose turkey wolf fox deer monkey gorilla
    snake lizard crocodile turtle whale shark dolphin octopus crab lobster snail spider ant bee fly dragon unicorn
    wizard witch knight king queen princess prince pirate ninja samurai vampire zombie ghost monster alien angel
    devil superhero soldier doctor nurse teacher chef farmer baby child family crowd policeman clown
    pizza burger sandwich cake cookie bread cheese egg banana pear grape cherry strawberry lemon carrot tomato
    potato onion corn pumpkin soup salad rice noodles coffee tea milk juice beer wine bottle cup glass plate fork
    spoon knife table chair sofa bed lamp clock mirror window door stairs bridge tower church school hospital
    factory farm barn tent train bus truck bicycle motorcycle airplane helicopter balloon submarine tractor
    phone computer laptop keyboard camera television radio guitar piano violin drum trumpet book pencil pen paper
    letter box bag basket key lock chain rope hammer saw axe sword shield bow arrow gun cannon flag map compass
    coin gold ring necklace dress shirt shoes boots gloves jacket mask wall fence road river lake waterfall
    volcano island cave cliff leaf rose tulip cactus palm bamboo stone rock crystal fire smoke lightning
    statue fountain market library museum temple pyramid lighthouse windmill skeleton
    skull brain eye hand foot tooth feather nest web kite doll toy puzzle dice chess football tennis skateboard
    surfboard sled ski tank lantern candle torch bell anchor wheel engine gear pipe brick tile
"""
#: Nouns that name nothing the renderer can draw: their captions show the rest.
UNKNOWN_NOUNS: Final = tuple(_NOUNS.split())
