"""The snaketune library: pure functions behind the rules of the workflow.

A script in ``scripts/`` is a door (it parses arguments, calls one function and writes the result), this
package is the house. Nothing here knows Snakemake, parses arguments or reads the user's configuration file.
"""

import logging

# Where it is installed, PEFT imports it in every run; it warns of a kernel that only the network has, and of the
# number format of each product.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
