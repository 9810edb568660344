"""Networks for small images, and the adapter for timm's."""
