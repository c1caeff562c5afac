"""Selection of generated images: `scoring.py` measures, `columns.py` is what is stored, `deciding.py` judges from that alone.

So a threshold can change without generating or measuring again.
"""
