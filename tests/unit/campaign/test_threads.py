"""Jobs are judged on several threads at once, also the first ones of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cprlib.files import project_folder
from tests.unit.evidence.samples import good_case

PROGRAM = """
import sys
import threading
from pathlib import Path
from cprlib.evidence.case import CaseEvidence
start = threading.Barrier(4)
def read():
    start.wait()
    CaseEvidence.read(Path(sys.argv[1]))
threads = [threading.Thread(target=read) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_first_evidence_of_a_process_can_be_read_on_several_threads(tmp_path: Path) -> None:
    good_case().write(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(project_folder())}
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=False, env=environment)
        assert done.returncode == 0
