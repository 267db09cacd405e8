"""The command line: `loratune search`, `loratune resume` and the other commands.

Any configuration key is a flag by its dotted name. A user's mistake ends in one line and exit code 2, a
search without a single successful trial in 3, a corrupt experiment in 4, an interrupted search in 130. What a
command needs is imported when it runs, so that `loratune --help` answers at once.
"""

import errno
import os
import sys

from trainable.errors import StorageError, UserError
from tune.cli import (
    adapter,
    confirm,
    data,
    doctor,
    init,
    jobs,
    manage,
    read,
    requests,
    search,
    show_config,
    space,
    train,
    trials,
)
from tune.cli.command import with_examples
from tune.cli.options import EXIT_INTERRUPTED, EXIT_USER_ERROR, app

__all__ = ["app", "main"]

_UNREADABLE = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EROFS)
"""Errors of the disk that a person can mend, where a full one is named by itself."""

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
app.command(
    epilog=with_examples(
        "loratune trials first --where 'lora.r >= 16 and state == completed'",
        "loratune trials first --sort -duration_s --limit 10",
        "loratune trials first --columns number,state,value,lr --csv",
        "loratune trials first --parquet trials.parquet",
    )
)(trials.trials)
app.command(epilog=with_examples("loratune show first 3", "loratune show first 3 --metric train/loss"))(
    trials.show
)
app.command(epilog=with_examples("loratune compare first 3 7", "loratune compare first second"))(
    trials.compare
)
app.command(
    epilog=with_examples(
        "loratune report first",
        "loratune report first --to report.html",
        "loratune report first --format md",
    )
)(read.report)
app.command(epilog=with_examples("loratune dashboard first", "loratune dashboard first --port 0"))(
    read.dashboard
)
app.command(
    epilog=with_examples(
        "loratune export first",
        "loratune export first --trial 7 --to models/seven",
        "loratune export first --merge --to models/merged",
        "loratune export first --to hub:ada/rain",
    )
)(adapter.export)
app.command(epilog=with_examples("loratune predict first --input rows.jsonl --to texts.jsonl"))(
    adapter.predict
)
app.command(epilog=with_examples("loratune chat first"))(adapter.chat)
app.command(epilog=with_examples("loratune ls", "loratune ls --results_dir results"))(manage.ls)
app.command(
    epilog=with_examples("loratune clean first --keep-top 3 --dry-run", "loratune clean first --keep-top 1")
)(manage.clean)
app.command(epilog=with_examples("loratune status first --results_dir results"))(read.status)
app.command(**doctor.DOCTOR_COMMAND)(doctor.doctor)
app.command(**jobs.SUBMIT_COMMAND)(jobs.submit)
app.add_typer(jobs.app, name="jobs")
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
    except StorageError as error:
        sys.stderr.write(
            f"loratune: {error} Nothing that was reported is lost; a search is resumed with: loratune resume "
            "NAME.\n"
        )
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        if error.errno in _UNREADABLE:
            sys.stderr.write(
                f"loratune: '{error.filename}' cannot be used: {error.strerror}. Check what it is, and its "
                "permissions.\n"
            )
            sys.exit(EXIT_USER_ERROR)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.stderr.write(
            f"loratune: the disk is full ({error.filename or error}). Free some space; after a search, "
            "resume it with: loratune resume NAME. Nothing that was reported is lost.\n"
        )
        sys.exit(EXIT_USER_ERROR)
