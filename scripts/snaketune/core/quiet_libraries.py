"""What other libraries say while they work, kept off the screen: warnings go nowhere, errors stay."""

import logging
import os
import warnings

LIBRARIES = (
    *("accelerate", "bitsandbytes", "datasets", "evaluate", "fastokens", "huggingface_hub", "lm_eval", "peft"),
    *("safetensors", "tokenizers", "torch", "transformers", "trl"),
)
# What the libraries read when they are imported: their own loggers then start at this level.
VERBOSITY = {
    "ACCELERATE_LOG_LEVEL": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def hush_libraries() -> None:
    """Keep warnings of other libraries off the screen, here and in the processes that this one starts.

    They are about the libraries' own calls, which the user cannot change ("will result in indexing errors" of texts
    that are cut right after), and hide the lines that are about the user's data. Exceptions and logged errors stay.
    """
    os.environ.update(VERBOSITY)
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=rf"({'|'.join(LIBRARIES)})(\.|$)")
