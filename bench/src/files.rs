//! How many files a process may have open: the limit on how many links can be measured.

use rustix::process::{Resource, getrlimit, setrlimit};

/// What a process needs besides its links: listeners, pipes, what the runtime has.
const FILES_BESIDE_LINKS: u64 = 256;

/// How many sockets a process may hold after [`raise`]. The measured processes inherit what this one may.
pub(crate) fn sockets_max() -> usize {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    usize::try_from(hard.saturating_sub(FILES_BESIDE_LINKS)).unwrap_or(usize::MAX)
}

/// Raises this process's limit as far as it may by itself. What fails here shows when a file cannot be opened.
pub(crate) fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
