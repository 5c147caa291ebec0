"""The finished project that every test looks at."""

import pytest
import torch
from fetching import name_of_model
from real_project import RealProject


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """The finished project; its LoRA training was killed with everything else after its fourth step."""
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        project = RealProject(folder / "project", name_of_model(folder / "site"))
        begun = project.start(None)
        project.wait_for_step(4, seconds=900, process=begun)
        project.kill(begun)
        project.run()
    torch.set_num_threads(1)
    return project
