"""What `evaluate@depth` measures."""
