"""How `icl-gd inspect` and `icl-gd identify` end: an answer, or one line about an error, and the exit code.

>>> exit_code(lambda: "written")
written
0
"""

import os
import signal
import sys
from collections.abc import Callable

from icl_gd.lab.config.errors import ConfigError, one_line


def exit_code(answer: Callable[[], str]) -> int:
    """Prints an answer to the standard output, or an error to the standard error.

    Args:
      answer: returns the answer.

    Returns:
      0 for an answer, 2 for bad input, 1 for another error, and 130 after Ctrl-C.
    """
    try:
        print(answer())
        return 0
    except ConfigError as error:
        print("error:", one_line(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 128 + signal.SIGINT
    except (Exception, SystemExit) as error:  # a function that is examined may end the process
        if os.environ.get("ICL_GD_TRACEBACK"):
            raise
        message = f"{type(error).__name__}: {one_line(error)}"
        print(f"error: {message}; nothing was written; ICL_GD_TRACEBACK=1 shows the traceback", file=sys.stderr)
        return 1
