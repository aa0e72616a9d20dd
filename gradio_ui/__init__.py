"""The web page of the service: a Gradio application that speaks HTTP only and never imports ``serve_app``."""
