"""Pictures of the Neural Turing Machine paper (Graves, Wayne & Danihelka 2014, arXiv:1410.5401) for any agent on an NTM/ task.

| picture                                   | figures       | file        |
|-------------------------------------------|---------------|-------------|
| bits against sequences; against lengths   | 3, 7, 10, 11  | curves.py   |
| targets and outputs; n-gram predictions   | 4, 5, 8, 14   | answers.py  |
| what is written and read where            | 6, 9, 12      | memory.py   |
| the heads' gates, a DNC's allocation      |               | gates.py    |
| priorities and write locations            | 17            | sort.py     |

tapes.py plays the tape that a picture shows; album.py chooses the pictures that fit an agent, and writes them.
comparison.py draws learning curves for compare-runs, value.py the predicted value over an episode; moments.py draws the pictures of
films, tape.py and strips.py those of tasks.  style.py is what drawing with matplotlib shares, palette.py with Pillow.
"""
