"""A double of a Cerebras appliance: the programs `cszoo`, `run.py` and `csctl` for the tests of the `cerebras` target.

It stands for the vendor's client and cluster, never for code of this project: it reads real params files (and refuses
what the real schema refuses), keeps a queue of jobs in a folder, and trains on this machine's processor, so that what
comes out are real checkpoints. What is known of the real programs' behaviour is public; where nothing is known (exact
words of most errors, the fields of `csctl -o json` beyond name, labels and phase) it is a guess and marked as one.

    install -> control (what goes wrong, how fast the clock runs) -> board (jobs)
    csctl   -> board
    client  -> flags, schema -> board, training
"""
