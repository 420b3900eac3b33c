"""Stands in for the job that teaches: what it makes of takes is the checkpoint as it was."""

import json
import shutil
import sys
from pathlib import Path

source, takes, output = map(Path, sys.argv[1:])
told = [json.loads(line) for line in (takes / "takes.jsonl").read_text().splitlines()]
assert all((takes / line["conversation"][0]["audio_path"]).exists() for line in told)
print(json.dumps({"share": 0.5}), flush=True)
if len(told) < 2:
    print(json.dumps({"error": "there are too few takes"}), flush=True)
    sys.exit(1)
shutil.copytree(source, output)
(output / "comparison.json").write_text(json.dumps({"counts": {"takes": {"clips": len(told)}}}))
