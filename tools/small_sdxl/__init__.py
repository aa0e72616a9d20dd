"""The bundled small SDXL: its pictures, training, export and evaluation."""
