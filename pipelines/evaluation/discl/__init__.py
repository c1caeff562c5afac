"""What DisCL's images and curriculum are worth on a long tail: students of them, beside their controls."""
