"""The snaketune library: pure functions behind the rules of the workflow.

A script in ``scripts/`` is a command line: it parses arguments, calls one function of this package and writes the
result. Nothing here knows Snakemake, parses arguments or reads the user's configuration file.
"""

import logging

# PEFT imports it in every run where it is installed; it warns about a kernel to download and about the dtype of each
# product.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
