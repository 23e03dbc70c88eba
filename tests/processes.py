"""Several processes at once, over what they share."""

from multiprocessing import get_context

FORK = get_context("fork")


def at_once(count, target, *args):
    """`target(sender, number, *args)` in `count` processes; what each put on its pipe."""
    pipes, workers = [], []
    for number in range(count):
        receiver, sender = FORK.Pipe(False)
        worker = FORK.Process(target=target, args=(sender, number, *args))
        worker.start()
        pipes.append(receiver)
        workers.append(worker)
    found = [pipe.recv() for pipe in pipes]
    for worker in workers:
        worker.join(60)
    return found
