"""The command line: `loratune init | search | resume | verify | train | trials | status | data | config |
space`.

Any configuration key is a flag by its dotted name. A user's mistake ends in one line and exit code 2, a
search without a single successful trial in 3, a corrupt experiment in 4, an interrupted search in 130. What a
command needs is imported when it runs, so that `loratune --help` answers at once.
"""

import errno
import os
import sys

from trainable.errors import UserError
from tune.cli import confirm, data, init, read, requests, search, show_config, space, train
from tune.cli.command import with_examples
from tune.cli.options import EXIT_INTERRUPTED, EXIT_USER_ERROR, app

__all__ = ["app", "main"]

app.command(**init.INIT_COMMAND)(init.init)
app.command(**search.SEARCH_COMMAND)(search.search)
app.command(**search.RESUME_COMMAND)(search.resume)
app.command(epilog=with_examples("loratune confirm first", "loratune confirm first --top 5 --seeds 4"))(
    confirm.confirm
)
app.command(epilog=with_examples("loratune enqueue first lora.r=16 training.learning_rate=2e-4"))(
    requests.enqueue
)
app.command(epilog=with_examples("loratune stop first 7"))(requests.stop)
app.command(epilog=with_examples("loratune pause first"))(requests.pause)
app.command(epilog=with_examples("loratune verify first"))(read.verify)
app.command(**train.TRAIN_COMMAND)(train.train)
app.command(epilog=with_examples("loratune trials first", "loratune trials first --json"))(read.trials)
app.command(epilog=with_examples("loratune status first --results_dir results"))(read.status)
app.add_typer(data.app, name="data")
app.add_typer(show_config.app, name="config")
app.add_typer(space.app, name="space")


def main() -> None:
    """Run the command line."""
    # Threads that wait for work must not spin: trials, driver and engine share the machine's cores, and
    # with another program beside them spinning makes torch several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(prog_name="loratune")
    except UserError as error:
        sys.stderr.write(f"loratune: {error}\n")
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.stderr.write("loratune: interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.stderr.write(
            f"loratune: the disk is full ({error.filename or error}). Free some space; after a search, "
            "resume it with: loratune resume NAME. Nothing that was reported is lost.\n"
        )
        sys.exit(EXIT_USER_ERROR)
