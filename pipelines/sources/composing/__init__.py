"""How a composed scene is made: numbers from names, cut-outs, backgrounds, layout, words. No files.

Pixels are float64 in 0..255. Everything on the way to a byte is IEEE addition, multiplication, division and square root,
element by element, or a sum that is exact in float64; angles are rounded to 16 binary digits. So a scene has the same
bytes on every machine, whatever its mathematics library.
"""
