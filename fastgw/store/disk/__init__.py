"""The level of the HTTP cache on disk: a log of answers in files, one process that writes it, and readers in all
others.

    records   what an answer looks like in the files
    log       the files: written, bounded, read again after a restart
    spill     follows the memory of the cache, and writes and purges what it tells
    shared    what the processes of a host have of it together
    reader    brings answers back into the memory, for requests that miss there
"""
