"""Why a scheduler was not reached or did not let in, in words that say what to do; Dask and OpenSSL have their own."""

import os
import re
import ssl

OTHER = "it is of another authority; take the folder from where `edgeres devices init` made the scheduler's"
ALERTS = {
    "UNKNOWN_CA": f"the scheduler does not know our certificate: {OTHER}",
    "CERTIFICATE_REVOKED": "our certificate was revoked; `edgeres devices init` makes another, to be copied here",
    "CERTIFICATE_EXPIRED": "our certificate is out of date by the clock there; `edgeres devices init` makes another",
    "WRONG_VERSION_NUMBER": "what listens there has no certificates; see to the address and the port",
}
"""What the other side says of us (RFC 8446, 6.2), as OpenSSL calls it."""
CODES = {
    9: "its certificate is of the future; see to the clock here",
    23: "its certificate was revoked; `edgeres devices init` makes the scheduler another one",
    10: "its certificate is out of date; see to the clock here, or run `edgeres devices init` there",
    62: "what answers there is no scheduler; see to the address and the port",
}
"""What we have against the other side, as OpenSSL numbers it (X509_V_ERR_*)."""
REGISTER = re.compile(r"""'message': (?P<quote>['"])(?P<said>.*?)(?P=quote)[,}]""")
TAKEN = "name taken, "


def refusal(error: BaseException) -> str:
    """Why a scheduler, or we, will have nothing to do with the other; "" where it is trouble that may pass."""
    found = _root(error)
    if isinstance(found, ssl.SSLCertVerificationError):
        return CODES.get(found.verify_code, f"we do not know its certificate: {OTHER}")
    if isinstance(found, ssl.SSLError):
        reason = found.reason or ""
        return next((said for name, said in ALERTS.items() if reason.endswith(name)), "")
    if register := REGISTER.search(str(found)):
        said = register["said"].rstrip(".")
        return f"an agent {said.removeprefix(TAKEN)} is there already; end that one" if TAKEN in said else said
    return ""


def reason(error: BaseException) -> str:
    """`refusal`, or else what the system says."""
    found = _root(error)
    number = getattr(found, "errno", None) or 0
    return refusal(error) or (os.strerror(number) if number > 0 else getattr(found, "strerror", None) or "no answer")


def _root(error: BaseException) -> BaseException:
    """What an error comes from: Dask puts its own around it."""
    chain = [error]
    while inner := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(inner)
    return next((one for one in reversed(chain) if isinstance(one, OSError)), chain[-1])
