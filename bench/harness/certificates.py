"""A certificate authority and two identities for the peers, made with openssl: P-256, as Celerity's own are."""
import os
import subprocess

from .machine import program


def make(folder):
    """Paths of ca.pem, and for `client` and `server` the certificate, key and both in one file."""
    openssl = program("openssl")

    def run(*argv):
        subprocess.run([openssl, *argv], check=True, capture_output=True, cwd=folder)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run("req", "-x509", *curve, "-days", "2", "-subj", "/CN=bench", "-keyout", "ca.key", "-out", "ca.pem")
    paths = {"ca": os.path.join(folder, "ca.pem")}
    for name in ("client", "server"):
        with open(os.path.join(folder, f"{name}.ext"), "w") as f:
            f.write(f"subjectAltName=URI:spiffe://cluster.local/ns/default/sa/{name},DNS:localhost,IP:127.0.0.1\n"
                    "keyUsage=digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n")
        run("req", *curve, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", f"{name}.ext", "-out", f"{name}.crt")
        both = os.path.join(folder, f"{name}.pem")
        with open(both, "w") as out:
            for part in (f"{name}.crt", f"{name}.key"):
                with open(os.path.join(folder, part)) as f:
                    out.write(f.read())
        paths[name] = both
        paths[f"{name}.crt"] = os.path.join(folder, f"{name}.crt")
        paths[f"{name}.key"] = os.path.join(folder, f"{name}.key")
    return paths
