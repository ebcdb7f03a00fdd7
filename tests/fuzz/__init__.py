"""Fuzzing through the command line's own entry: inputs that are almost right, and what must never come of them.

    world.py      a base, a pool, a run, a benchmark, a store: what every case has around it
    seeds.py      right inputs of every kind, which cases are made from
    mutators.py   what makes an input almost right: bytes, JSON and YAML, safetensors, archives
    targets.py    what each kind of input is, the command that reads it; how a case of what users write is made
    pool_targets.py, kept_targets.py, sources.py     the same of models, and of what our commands keep; what they share
    checks.py     a case, and what is looked at after its command
    oracle.py     one command in this process, and the faults in what it did
    running.py    many cases in forked processes: hangs, crashes, memory; counts, a log, faults cut down
    corpus/       cases that were faults once, replayed by test_corpus.py

`scripts/fuzz` runs them by hand.
"""
