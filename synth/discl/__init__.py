"""DisCL (Liang et al. 2025): hard images made anew at several strengths, and a curriculum from synthetic images to real ones.

Pure: images, prompts and numbers in, images, scores and tables out.
"""
