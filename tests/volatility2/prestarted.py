"""Runs vol.py as people do, but without the start of Volatility 2.

Loading Volatility and its plugins, and taking them down, takes two thirds of a short run. This
server has loaded them, and forks for each run: the copy gets the arguments and the streams, and
runs the script as ``__main__``.

    python prestarted.py

reads requests from its standard input, one JSON array a line: the files for the standard output
and the errors, then the script and its arguments. For each it prints the exit code.
`tests/volatility2program.py` is the other side.

Runs on Python 2.7. Volatility takes each file of this folder for a plugin: nothing happens then.
"""

import atexit
import gc
import imp
import json
import os
import runpy
import sys
import traceback


def serve():
    """Fork for each request; the copies become the script."""
    # Volatility finds its standard streams in the places of all programs, and empty.
    requests, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    # Less often than usual, as in visualizer.sh; this saves a third of a short run.
    gc.set_threshold(100000)
    load()
    sys.stdout.flush()  # else each copy would print it
    # What is here now belongs to the oldest objects, which a copy's collections do not visit.
    gc.collect()
    for line in iter(requests.readline, ""):
        process = os.fork()
        if not process:
            requests.close()
            answers.close()
            request = [word.encode("utf-8") for word in json.loads(line)]
            for place, name in ((1, request[0]), (2, request[1])):
                with open(name, "wb") as output:
                    os.dup2(output.fileno(), place)
            end(become(request[2:]))
        _, status = os.waitpid(process, 0)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        answers.write("%d\n" % code)
        answers.flush()
    end(0)


def load():
    """Load what vol.py loads: its modules, its own option, and all plugins of Volatility itself.

    What it prints if a plugin cannot be loaded, it prints in each run again.
    """
    script = os.path.join(os.path.dirname(sys.executable), "vol.py")
    sys.argv = [script]
    runpy.run_path(script, run_name="vol")
    import volatility.registry

    volatility.registry.PluginImporter()


def become(arguments):
    """Run the script, and return its exit code; Python's own end would say the same."""
    import volatility.conf
    import volatility.plugins

    sys.path[0] = os.path.dirname(os.path.realpath(arguments[0]))
    try:
        # Volatility looks once more where its plugins are. vol.py first knows no other option.
        sys.argv = [one for one in arguments if one == arguments[0] or one.startswith("--plugins=")]
        volatility.conf.ConfObject().parse_options(False)
        imp.reload(volatility.plugins)
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as reason:
        if reason.code is None or isinstance(reason.code, int):
            return (reason.code or 0) & 0xFF
        sys.stdout.flush()
        sys.stderr.write("%s\n" % reason.code)
        return 1
    except BaseException:
        sys.stdout.flush()
        traceback.print_exc()
        return 1
    return 0


def end(code):
    """End as Python does, but leave Volatility's modules, which takes longer than many a run."""
    sys.exc_clear()  # it holds the objects of a failed run, such as files
    atexit._run_exitfuncs()
    gc.collect(1)  # the run's own objects
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
