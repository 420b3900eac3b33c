"""How many files and sockets this process may have open: POSIX counts both as descriptors."""

MAX_DESCRIPTORS = 65_536
"""More are of no use to one process of ours."""
_OFFERS = (MAX_DESCRIPTORS, 10_240, 4_096)
"""What is asked for in turn: macOS sets a bound below the hard limit, and does not say which."""


def descriptor_limit() -> int | None:
    """How many may be open at once; None where none is set, as on Windows."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> None:
    """Raise the soft limit towards the hard one, as far as the system lets us."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    for offer in _OFFERS:
        wanted = offer if hard == resource.RLIM_INFINITY else min(offer, hard)
        if wanted <= soft:
            return
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            continue
        return
