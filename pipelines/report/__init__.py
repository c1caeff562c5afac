"""The report: reads the folders that stages left and turns them into one self-contained page. Writes nothing itself.

`reading` opens folders; `results`, `curves` and `grids` make view models of numbers, lines and pictures; `svg` draws;
`page` puts all of it together and `card` describes the distilled dataset for its folder. Nothing here imports a stage,
torch or matplotlib.
"""
