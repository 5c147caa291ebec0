"""Runs two scripts of the workflow one after the other in one process: their command lines are JSON in one argument."""

import json
import runpy
import sys

if __name__ == "__main__":
    for arguments in json.loads(sys.argv[1]):
        sys.argv = arguments
        runpy.run_path(arguments[0], {}, "__main__")
