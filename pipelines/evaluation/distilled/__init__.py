"""What distilled sets are worth: students on them, beside their controls."""
