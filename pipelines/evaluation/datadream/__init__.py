"""What DataDream's images are worth: classifiers on them, beside their controls."""
