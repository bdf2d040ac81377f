//! The files of unix sockets: where private ones live, and who may bind, take over and remove a path.
//!
//! A listener asks here before a byte has flowed. A unix socket is an open door in the file system, and the
//! hazards are its own: others may connect before permissions are set, two nodes may both take over what a
//! dead one left, a symbolic link may lead elsewhere, a late clean-up may remove a successor's socket.
//!
//! **Invariants**
//! 1. While a path is bound, its lock file (`PATH.lock`) is locked with `flock`, which ends with the process.
//!    Whoever has the lock may take over, bind and remove; nobody else does.
//! 2. A socket file has mode 0600 from its first moment: the mode is given to the socket before `bind`.
//! 3. Only a socket on which nobody accepts is taken over; nothing else that stands at the path is touched.
//! 4. Files are removed only if they are still the ones that were made (device and inode).
//!
//! Programs that know nothing of the lock (libzmq removes whatever it finds) can still race with us; for them
//! there is the private directory, into which only our user can write.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::listening::BACKLOG;
use crate::endpoint::IPC_PATH_LEN_MAX;

/// The directory of private sockets, made if it is missing: `$XDG_RUNTIME_DIR/dynamo-am` if that variable names
/// a directory of our user into which nobody else can write, else `/tmp/dynamo-am-UID`.
///
/// # Errors
/// If it cannot be made, or is not a directory of our user with mode 0700. It is then never used: somebody else
/// could have put it there.
pub fn runtime_dir() -> io::Result<PathBuf> {
    let directory = runtime_dir_path();
    match DirBuilder::new().mode(0o700).create(&directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            let text = format!("cannot make the runtime directory {}: {error}", directory.display());
            return Err(io::Error::new(error.kind(), text));
        }
    }
    check_private(&directory)?;
    Ok(directory)
}

/// Whether `path` names a file directly inside our [`runtime_dir`], and that directory is ours alone. Makes
/// nothing.
#[must_use]
pub fn is_in_runtime_dir(path: &Path) -> bool {
    let directory = runtime_dir_path();
    path.file_name().is_some() && path.parent() == Some(&*directory) && check_private(&directory).is_ok()
}

fn runtime_dir_path() -> PathBuf {
    let fits = |directory: &Path| directory.as_os_str().len() + 1 + PRIVATE_NAME_LEN <= IPC_PATH_LEN_MAX;
    if let Some(base) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        let directory = base.join("dynamo-am");
        let is_ours = fs::metadata(&base)
            .is_ok_and(|found| found.is_dir() && found.uid() == our_uid() && found.mode() & 0o022 == 0);
        if base.is_absolute() && is_ours && fits(&directory) {
            return directory;
        }
    }
    PathBuf::from(format!("/tmp/dynamo-am-{}", our_uid()))
}

fn check_private(directory: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    let mode = found.mode() & 0o7777;
    let trouble = if !found.is_dir() {
        "is no directory".to_owned()
    } else if found.uid() != our_uid() {
        format!("belongs to user {}", found.uid())
    } else if mode & 0o077 != 0 {
        format!("is open to others (mode {mode:04o})")
    } else {
        return Ok(());
    };
    let text = format!(
        "the runtime directory {} {trouble}; it must be a directory of user {} with mode 0700: correct or \
         remove it, or set XDG_RUNTIME_DIR",
        directory.display(),
        our_uid(),
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// Why a path cannot be bound.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Somebody listens there.
    InUse,
    /// The path itself is wrong: what, and what to do.
    Path(String),
    /// The system's own word.
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::InUse,
            _ => Self::Io(error),
        }
    }
}

/// A bound path: removes its socket and its lock when dropped.
#[derive(Debug)]
pub(super) struct BoundPath {
    path: PathBuf,
    socket: FileId,
    // Dropped after the socket file was removed: whoever waits for the lock then finds the path free.
    _lock: LockFile,
}

impl BoundPath {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        self.socket.remove_if_still_at(&self.path);
    }
}

/// Binds a fresh name in the runtime directory, after removing what killed processes left there.
pub(super) fn bind_private() -> Result<(Socket, BoundPath), Refusal> {
    let directory = runtime_dir().map_err(|error| Refusal::Path(error.to_string()))?;
    sweep(&directory);
    let mut last = Refusal::InUse;
    for _ in 0..ATTEMPTS_MAX {
        let path = directory.join(format!("{:016x}.sock", rand::random::<u64>()));
        match bind(&path) {
            Err(Refusal::InUse) => last = Refusal::InUse,
            outcome => return outcome,
        }
    }
    Err(last)
}

/// Binds `path` and starts to listen on it, taking over what a dead process left.
pub(super) fn bind(path: &Path) -> Result<(Socket, BoundPath), Refusal> {
    check_path(path)?;
    let lock = LockFile::acquire(&lock_path(path), OFlags::CREATE)?;
    clear_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(io::Error::from)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let found = fs::symlink_metadata(path)?;
    let bound = BoundPath { path: path.to_owned(), socket: FileId::of(&found), _lock: lock };
    if found.mode() & 0o077 != 0 {
        // Nobody can have connected yet: that needs `listen`.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        if fs::symlink_metadata(path)?.mode() & 0o077 != 0 {
            return Err(Refusal::Path("its file system keeps no permissions; choose another place".into()));
        }
    }
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok((socket, bound))
}

fn check_path(path: &Path) -> Result<(), Refusal> {
    let refuse = |reason: String| Err(Refusal::Path(reason));
    if !path.is_absolute() || path.file_name().is_none() {
        return refuse("the path of a unix socket must be absolute and name a file".into());
    }
    if path.as_os_str().len() > IPC_PATH_LEN_MAX {
        return refuse(format!("the path of a unix socket is at most {IPC_PATH_LEN_MAX} octets"));
    }
    let directory = path.parent().unwrap_or(path);
    let found = match fs::metadata(directory) {
        Ok(found) => found,
        Err(error) => return refuse(format!("its directory {}: {error}", directory.display())),
    };
    if !found.is_dir() {
        return refuse(format!("{} is no directory", directory.display()));
    }
    // With the sticky bit, as /tmp has it, others can add files but not replace ours.
    if found.mode() & 0o002 != 0 && found.mode() & 0o1000 == 0 {
        let name = directory.display();
        return refuse(format!("anybody can replace files in {name}; choose another, or `chmod o-w` it"));
    }
    Ok(())
}

/// Removes a socket on which nobody listens; refuses whatever else stands at `path`. Needs the lock.
fn clear_stale(path: &Path) -> Result<(), Refusal> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let refuse = |reason: &str| Err(Refusal::Path(reason.to_owned()));
    if found.file_type().is_symlink() {
        return refuse("the path is a symbolic link; name its target, or remove it");
    }
    if !found.file_type().is_socket() {
        return refuse("a file that is no socket is in the way; remove it or choose another path");
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    let Err(error) = probe.connect(&SockAddr::unix(path)?) else {
        return Err(Refusal::InUse);
    };
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::CONNREFUSED) => match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                refuse("a dead process of another user left a socket there, which we may not remove")
            }
            outcome => Ok(outcome?),
        },
        Some(Errno::NOENT) => Ok(()),
        // A full backlog: somebody listens, though slowly.
        Some(Errno::AGAIN | Errno::INPROGRESS) => Err(Refusal::InUse),
        Some(Errno::PROTOTYPE) => refuse("a socket of another kind is in the way; choose another path"),
        Some(Errno::ACCESS | Errno::PERM) => {
            refuse("a socket of another user is in the way; choose another path")
        }
        _ => Err(error.into()),
    }
}

/// Removes private sockets whose process has died. Whatever cannot be removed stays: this is housekeeping.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.take(SWEEP_MAX).flatten() {
        let path = entry.path();
        // Names of private sockets only: those are bound once, so nobody waits for this lock but for them.
        if !is_private_name(&path) || fs::symlink_metadata(&path).is_err() {
            continue;
        }
        if let Ok(_lock) = LockFile::acquire(&lock_path(&path), OFlags::empty()) {
            let _ = clear_stale(&path);
        }
    }
}

fn is_private_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.strip_suffix(".sock"))
        .is_some_and(|stem| stem.len() == 16 && stem.bytes().all(|octet| octet.is_ascii_hexdigit()))
}

/// A locked lock file: unlocked and removed when dropped.
#[derive(Debug)]
struct LockFile {
    path: PathBuf,
    file: OwnedFd,
    id: FileId,
}

impl LockFile {
    /// Locks the file at `path`, which is made if `create` has `OFlags::CREATE`.
    fn acquire(path: &Path, create: OFlags) -> Result<Self, Refusal> {
        let flags = create | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        for _ in 0..ATTEMPTS_MAX {
            let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|error| Refusal::Path(format!("its lock file {}: {error}", path.display())))?;
            let file = fs::File::from(file);
            let found = file.metadata()?;
            if !found.is_file() || found.uid() != our_uid() {
                let name = path.display();
                return Err(Refusal::Path(format!("{name} is no lock file of our user; remove it")));
            }
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(Refusal::InUse),
                Err(error) => return Err(Refusal::Io(error.into())),
            }
            let id = FileId::of(&found);
            // Its last owner may have removed it between our opening and locking: then the lock is worthless.
            if id.is_at(path) {
                return Ok(Self { path: path.to_owned(), file: file.into(), id });
            }
        }
        Err(Refusal::InUse)
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        self.id.remove_if_still_at(&self.path);
        // Closing is not enough: a process that is being started may hold a copy of the descriptor for a moment.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// What makes a file the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(found: &Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino() }
    }

    fn is_at(self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|found| Self::of(&found) == self)
    }

    fn remove_if_still_at(self, path: &Path) {
        if self.is_at(path)
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove the file of a closed listener");
        }
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

fn our_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Octets of a private socket's name: 16 hexadecimal digits and `.sock`.
const PRIVATE_NAME_LEN: usize = 21;
/// Tries to find a free name or a lock file that stays: two would do, unless somebody plays with us.
const ATTEMPTS_MAX: usize = 16;
/// Entries of the runtime directory looked at by one clean-up, so that listening never takes long.
const SWEEP_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_lock_file_that_was_replaced_is_not_ours() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        let lock = LockFile::acquire(&path, OFlags::CREATE).unwrap();
        assert!(matches!(LockFile::acquire(&path, OFlags::CREATE), Err(Refusal::InUse)));
        fs::remove_file(&path).unwrap();
        let successor = LockFile::acquire(&path, OFlags::CREATE).unwrap();
        drop(lock);
        assert!(path.exists(), "the first owner removed its successor's lock");
        drop(successor);
        assert!(!path.exists());
    }

    #[test]
    fn a_successors_socket_survives_the_clean_up_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let (socket, bound) = bind(&path).unwrap();
        // As libzmq does: remove whatever is there, and bind.
        fs::remove_file(&path).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        drop((socket, bound));
        assert!(path.exists());
    }

    #[test]
    fn a_live_listener_without_a_lock_is_respected() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let theirs = UnixListener::bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(Refusal::InUse)));
        drop(theirs);
        assert!(bind(&path).is_ok());
    }

    #[test]
    fn a_sweep_removes_what_the_dead_left_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (_socket, alive) = bind(&path("0123456789abcdef.sock")).unwrap();
        for name in ["00000000000000aa.sock", "chosen.sock"] {
            drop(UnixListener::bind(path(name)).unwrap());
            fs::write(lock_path(&path(name)), "").unwrap();
        }
        sweep(directory.path());
        assert!(alive.path().exists() && lock_path(alive.path()).exists());
        assert!(!path("00000000000000aa.sock").exists());
        assert!(!path("00000000000000aa.sock.lock").exists());
        assert!(path("chosen.sock").exists() && path("chosen.sock.lock").exists());
    }

    #[test]
    fn a_directory_that_is_open_to_others_is_not_private() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let error = check_private(directory.path()).unwrap_err().to_string();
        assert!(error.contains("0750") && error.contains("0700"), "{error}");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        check_private(directory.path()).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        assert!(check_private(&link).unwrap_err().to_string().contains("no directory"));
    }
}
