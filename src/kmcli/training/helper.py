"""A process that helps another to train (`team`): python -m kmcli.training.helper PIPE. Writes to no file.

It ends when the other end of the pipe is closed, however that came about.
"""

from __future__ import annotations

import sys
from contextlib import closing
from multiprocessing.connection import Connection

import torch.distributed as dist

from kmcli import bases
from kmcli.adapters import ADAPTERS
from kmcli.errors import KmError
from kmcli.training.forward import causal
from kmcli.training.gradients import Gradients
from kmcli.training.kernels import fast_layers
from kmcli.training.loop import Student
from kmcli.training.memory import kept_memory
from kmcli.training.team import Share, Step, Work, spread, summed, touched


def help_with(pipe: Connection) -> None:
    """Raises EOFError when it is no longer needed, KmError where it cannot go on."""
    base, bits, place = pipe.recv()
    place.take()
    loaded = bases.load(base, place.device, bits)
    pipe.send("loaded")
    work: Work = pipe.recv()
    place.meet()
    model = ADAPTERS[work.recipe.adapter].build(loaded, work.recipe, text=work.text, shelf=work.shelf)
    student = Student(model, loaded, work.mixture, work.recipe, work.folder, pipe.send, budget=0)
    model.train()
    with kept_memory(), fast_layers(model, causal(model).get_output_embeddings()) as stacked:
        gradients = Gradients(model, loaded, stacked, work.tokens, False, pipe.send)
        gradients.mine = place.mine
        with closing(gradients), closing(student):
            while True:
                step: Step = pipe.recv()
                student.progress.step = step.number
                if step.written is not None:
                    student.renewal.restore(step.written)
                spread(student)
                numbers, failed = gradients.compute([student])
                for _, error in failed:
                    raise error
                pipe.send(Share({name: float(value) for name, value in numbers[0].items()}, touched(student)))
                summed(student)


if __name__ == "__main__":
    with Connection(int(sys.argv[1])) as connection:
        try:
            help_with(connection)
        except (EOFError, ConnectionError):
            pass
        except KmError as error:
            connection.send(error)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
