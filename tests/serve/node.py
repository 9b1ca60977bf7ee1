"""The modules of the page in the browser, run by Node without a browser."""

import json
import shutil
import subprocess
from pathlib import Path

import slt_jax.serve

NODE, NPM = shutil.which("node"), shutil.which("npm")
PARTS = Path(slt_jax.serve.__file__).parent / "browser_parts"


def run_js(script, given, *modules):
    """What `script`, the body of a function of `given`, returns; all names that `modules` export are known to it."""
    lines = [f'import * as m{n} from "{(PARTS / name).as_uri()}";' for n, name in enumerate(modules)]
    lines += [f"Object.assign(globalThis, m{n});" for n in range(len(modules))]
    lines += ['import { readFileSync } from "node:fs";', 'const given = JSON.parse(readFileSync(0, "utf-8"));',
              f"const done = await (async () => {{ {script} }})();",
              "process.stdout.write(JSON.stringify(done));"]  # fmt: skip
    done = subprocess.run([NODE, "--input-type=module", "--eval", "\n".join(lines)], input=json.dumps(given),
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
