"""What happens inside CLIP when the picture is messed with, and how to make it care less."""
