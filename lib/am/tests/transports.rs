//! The transports of this crate against their contract: each bullet of the conformance suite over tcp, ipc and
//! inproc, and what is special to sockets on files and to addresses.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dynamo_am::Endpoint;
use dynamo_am::error::BindError;
use dynamo_am::transport::inproc::InprocTransport;
use dynamo_am::transport::sim::{Dice, FaultRates, SimNetwork};
use dynamo_am::transport::{Listener, PeerAddress, ThinTransport, conformance};
use dynamo_am::zmq::{IpcTransport, TcpTransport, is_in_runtime_dir, runtime_dir};

/// A transport, a free endpoint, and what must live as long as the test.
struct Case {
    transport: Arc<dyn ThinTransport>,
    endpoint: Endpoint,
    _directory: Option<tempfile::TempDir>,
}

fn tcp_case() -> Case {
    let endpoint = "tcp://127.0.0.1:0".parse().unwrap();
    Case { transport: Arc::new(TcpTransport::default()), endpoint, _directory: None }
}

fn ipc_private_case() -> Case {
    Case { transport: Arc::new(IpcTransport::new()), endpoint: Endpoint::IpcPrivate, _directory: None }
}

fn ipc_path_case() -> Case {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::Ipc { path: directory.path().join("socket") };
    Case { transport: Arc::new(IpcTransport::new()), endpoint, _directory: Some(directory) }
}

fn inproc_case() -> Case {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let endpoint = Endpoint::Inproc { name: format!("case-{}", NEXT.fetch_add(1, Ordering::Relaxed)) };
    Case { transport: Arc::new(InprocTransport::new()), endpoint, _directory: None }
}

/// Without the faults that lose octets, which it is made for, the simulated network is a transport like any other.
fn sim_case() -> Case {
    let rates = FaultRates { short_read: 200, short_write: 200, blocked_write: 100, ..FaultRates::none() };
    let net = SimNetwork::new(Dice::new(1), rates, Box::new(|_| ()));
    let transport = net.transport([10, 0, 0, 1].into());
    Case { transport, endpoint: "tcp://10.0.0.1:0".parse().unwrap(), _directory: None }
}

macro_rules! conforms {
    ($kind:ident, $make:ident: $($bullet:ident)+) => {
        mod $kind {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $bullet() {
                    let case = super::$make();
                    super::conformance::$bullet(&*case.transport, &case.endpoint).await;
                }
            )+
        }
    };
}
macro_rules! conforms_in_all {
    ($kind:ident, $make:ident) => {
        conforms!($kind, $make: order reads_within_limits duplex bounded wakes wakes_under_load end
            writes_to_a_gone_peer dialling listening one_listener dropped_listener accepting);
    };
}
conforms_in_all!(tcp, tcp_case);
conforms_in_all!(ipc_private, ipc_private_case);
conforms_in_all!(ipc_path, ipc_path_case);
conforms_in_all!(inproc, inproc_case);
conforms_in_all!(sim, sim_case);

#[tokio::test]
async fn the_suite_runs_as_a_whole_as_other_crates_run_it() {
    conformance::run(|| {
        let case = inproc_case();
        (case.transport, case.endpoint)
    })
    .await;
}

// ---- unix sockets ----

async fn listen_at(path: &Path) -> Result<Box<dyn Listener>, BindError> {
    IpcTransport::new().listen(&Endpoint::Ipc { path: path.to_owned() }).await
}

/// Why `path` is refused, which must be a matter of the path.
async fn refusal(path: &Path) -> String {
    match listen_at(path).await {
        Err(BindError::Path { reason, .. }) => reason,
        Err(other) => panic!("expected BindError::Path, found {other:?}"),
        Ok(_) => panic!("{} was bound", path.display()),
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[tokio::test]
async fn a_stale_socket_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stale");
    drop(UnixListener::bind(&path).unwrap());
    let mut listener = listen_at(&path).await.unwrap();
    let endpoint = listener.endpoint().clone();
    let transport = IpcTransport::new();
    let (dialled, accepted) = tokio::join!(transport.dial(&endpoint), listener.accept());
    let uid = fs::metadata(&path).unwrap().uid();
    assert_eq!(dialled.unwrap().peer, PeerAddress::Ipc { uid });
    assert_eq!(accepted.unwrap().peer, PeerAddress::Ipc { uid });
}

#[tokio::test]
async fn a_live_socket_is_refused_even_if_its_owner_knows_no_lock() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live");
    let _theirs = UnixListener::bind(&path).unwrap();
    assert!(matches!(listen_at(&path).await, Err(BindError::InUse { .. })));
    assert!(path.exists() && entries(directory.path()) == 1, "the attempt left something or took the socket");
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "precious").unwrap();
    assert!(refusal(&path).await.contains("no socket"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    assert_eq!(entries(directory.path()), 1);
}

#[tokio::test]
async fn a_symbolic_link_is_refused_even_to_a_stale_socket() {
    let directory = tempfile::tempdir().unwrap();
    let (target, link) = (directory.path().join("target"), directory.path().join("link"));
    drop(UnixListener::bind(&target).unwrap());
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert!(refusal(&link).await.contains("symbolic link"));
    assert!(target.exists() && link.is_symlink());
}

#[tokio::test]
async fn a_lock_file_that_is_a_symbolic_link_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    std::os::unix::fs::symlink("/dev/null", with_suffix(&path, ".lock")).unwrap();
    assert!(refusal(&path).await.contains("lock file"));
}

#[tokio::test]
async fn a_directory_in_which_anybody_can_replace_files_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refusal(&path).await.contains("anybody"));
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    listen_at(&path).await.expect("with the sticky bit, as /tmp has it, it is safe");
}

#[tokio::test]
async fn paths_that_no_socket_can_have_are_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    assert!(refusal(Path::new("relative")).await.contains("absolute"));
    assert!(refusal(&directory.path().join("missing/socket")).await.contains("directory"));
    assert!(refusal(&directory.path().join("x".repeat(120))).await.contains("107"));
    assert_eq!(entries(directory.path()), 0);
}

#[tokio::test]
async fn only_our_user_can_reach_a_private_socket() {
    let listener = IpcTransport::new().listen(&Endpoint::IpcPrivate).await.unwrap();
    let path = listener.endpoint().ipc_path().unwrap().to_owned();
    assert_eq!(path.parent().unwrap(), runtime_dir().unwrap());
    assert!(is_in_runtime_dir(&path));
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&with_suffix(&path, ".lock")), 0o600);
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    drop(listener);
    assert!(!path.exists() && !with_suffix(&path, ".lock").exists());
    assert!(!is_in_runtime_dir(&path.join("deeper")) && !is_in_runtime_dir(Path::new("/")));
    assert!(!is_in_runtime_dir(&runtime_dir().unwrap().join("..")));
}

#[tokio::test]
async fn a_chosen_socket_has_mode_0600_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = listen_at(&path).await.unwrap();
    assert_eq!(mode(&path), 0o600);
    drop(listener);
    assert_eq!(entries(directory.path()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_take_over_a_stale_socket_one_gets_it() {
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stale");
        drop(UnixListener::bind(&path).unwrap());
        let attempts: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                tokio::spawn(async move { listen_at(&path).await })
            })
            .collect();
        let mut listeners = Vec::new();
        for attempt in attempts {
            match attempt.await.unwrap() {
                Ok(listener) => listeners.push(listener),
                Err(BindError::InUse { .. }) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(listeners.len(), 1);
        let endpoint = listeners[0].endpoint().clone();
        IpcTransport::new().dial(&endpoint).await.expect("the winner's socket was removed by a loser");
    }
}

// ---- tcp ----

async fn listen_tcp(text: &str) -> Result<Box<dyn Listener>, BindError> {
    TcpTransport::default().listen(&text.parse().unwrap()).await
}

fn port(endpoint: &Endpoint) -> u16 {
    match endpoint {
        Endpoint::Tcp { port, .. } => *port,
        other => panic!("{other} is not tcp"),
    }
}

#[tokio::test]
async fn a_wildcard_takes_both_families_and_shows_ipv4_peers_as_such() {
    let mut listener = listen_tcp("tcp://*:0").await.unwrap();
    let port = port(listener.endpoint());
    assert_ne!(port, 0);
    let mut hosts = vec!["127.0.0.1"];
    if listener.endpoint().to_string().starts_with("tcp://[::]") {
        hosts.push("[::1]");
    }
    for host in hosts {
        let endpoint = format!("tcp://{host}:{port}").parse().unwrap();
        let transport = TcpTransport::default();
        let (dialled, accepted) = tokio::join!(transport.dial(&endpoint), listener.accept());
        let (dialled, accepted) = (dialled.unwrap().peer, accepted.unwrap().peer);
        let PeerAddress::Tcp(dialled) = dialled else { panic!("{dialled:?}") };
        let PeerAddress::Tcp(accepted) = accepted else { panic!("{accepted:?}") };
        assert_eq!(dialled.ip(), accepted.ip());
        assert_eq!(dialled.is_ipv4(), host == "127.0.0.1");
    }
}

#[tokio::test]
async fn a_port_is_taken_for_the_wildcard_too() {
    let listener = listen_tcp("tcp://127.0.0.1:0").await.unwrap();
    let wildcard = format!("tcp://*:{}", port(listener.endpoint()));
    let error = listen_tcp(&wildcard).await.unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains(&wildcard));
}

#[tokio::test]
async fn a_name_is_dialled_at_each_of_its_addresses() {
    // `localhost` may come first as ::1, where nobody listens.
    let listener = listen_tcp("tcp://127.0.0.1:0").await.unwrap();
    let endpoint: Endpoint = format!("tcp://localhost:{}", port(listener.endpoint())).parse().unwrap();
    TcpTransport::default().dial(&endpoint).await.unwrap();
    drop(listener);
    let error = TcpTransport::default().dial(&endpoint).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(error.to_string().contains("127.0.0.1"), "the error lists the attempts: {error}");
}

#[tokio::test]
async fn an_address_of_another_machine_cannot_be_bound() {
    // TEST-NET-1, assigned to no machine (RFC 5737).
    let error = listen_tcp("tcp://192.0.2.1:0").await.unwrap_err();
    assert!(matches!(error, BindError::Io { .. }), "{error:?}");
}

// ---- in processes of their own ----

/// Runs the ignored test `name` of this binary in a process of its own, with `environment`.
fn run_alone(name: &str, environment: &[(&str, &Path)]) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(HANGS), "{name} hangs or turns in circles:\n{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{name} failed alone:\n{text}");
}

/// Set in such a process; without it, they do nothing (somebody ran all ignored tests).
const ALONE: &str = "AM_TEST_ALONE";
const PATH: &str = "AM_TEST_PATH";
/// Exit code of such a process when it hangs or turns in circles.
const HANGS: i32 = 124;

/// Whether this process is such a one; if so, it ends itself should it hang, since nobody else would.
fn is_alone() -> bool {
    let is_alone = std::env::var_os(ALONE).is_some();
    if is_alone {
        std::thread::spawn(|| {
            let (_never, signal) = std::sync::mpsc::channel::<()>();
            let _ = signal.recv_timeout(Duration::from_secs(30));
            std::process::exit(HANGS);
        });
    }
    is_alone
}

#[test]
fn accepting_survives_a_lack_of_descriptors() {
    run_alone("alone_without_descriptors", &[]);
}

#[tokio::test(start_paused = true)]
#[ignore = "lowers the limit of its whole process; run by another test"]
async fn alone_without_descriptors() {
    if !is_alone() {
        return;
    }
    for case in [tcp_case(), ipc_path_case()] {
        let mut listener = case.transport.listen(&case.endpoint).await.unwrap();
        let endpoint = listener.endpoint().clone();
        let mut dialled = Vec::new();
        for _ in 0..3 {
            dialled.push(case.transport.dial(&endpoint).await.unwrap());
        }
        let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let few = rustix::process::Rlimit { current: Some(256), ..limits };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
        let mut hoard = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            hoard.push(file);
        }
        // The clock moves only while every task waits: a busy loop would never see these 60 s pass.
        let starved = tokio::time::timeout(Duration::from_secs(60), listener.accept()).await;
        assert!(starved.is_err(), "accepted without a descriptor, or gave up: {starved:?}");
        drop(hoard);
        let free_again = tokio::time::Instant::now();
        for _ in 0..3 {
            listener.accept().await.unwrap();
        }
        assert!(free_again.elapsed() < Duration::from_secs(1), "service must be back within a second");
    }
}

#[tokio::test]
async fn what_a_killed_process_left_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "alone_dying_while_it_listens", "--ignored"])
        .env(ALONE, "1")
        .env(PATH, &path)
        .output()
        .unwrap()
        .status;
    assert_eq!(status.code(), Some(77), "the other process did not get to its end");
    assert!(path.exists() && with_suffix(&path, ".lock").exists());
    let listener = listen_at(&path).await.unwrap();
    drop(listener);
    assert_eq!(entries(directory.path()), 0);
}

#[tokio::test]
#[ignore = "ends its whole process; run by another test"]
async fn alone_dying_while_it_listens() {
    if is_alone() {
        let path = PathBuf::from(std::env::var_os(PATH).unwrap());
        let _listener = listen_at(&path).await.unwrap();
        std::process::exit(77);
    }
}

#[test]
fn the_runtime_directory_follows_the_environment_and_must_be_private() {
    let base = tempfile::tempdir().unwrap();
    run_alone("alone_in_a_runtime_directory", &[("XDG_RUNTIME_DIR", base.path())]);
}

#[tokio::test]
#[ignore = "needs an environment of its own; run by another test"]
async fn alone_in_a_runtime_directory() {
    if !is_alone() {
        return;
    }
    let base = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR").unwrap());
    let directory = base.join("dynamo-am");
    assert!(!is_in_runtime_dir(&directory.join("x")), "asking must make nothing");
    let listener = IpcTransport::new().listen(&Endpoint::IpcPrivate).await.unwrap();
    let path = listener.endpoint().ipc_path().unwrap().to_owned();
    assert!(path.starts_with(&directory) && is_in_runtime_dir(&path) && mode(&directory) == 0o700);
    drop(listener);

    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    match IpcTransport::new().listen(&Endpoint::IpcPrivate).await {
        Err(BindError::Path { reason, .. }) => assert!(reason.contains("0755") && reason.contains("0700")),
        other => panic!("a directory open to others was used: {other:?}"),
    }
    assert!(!is_in_runtime_dir(&path));

    // A base into which others can write is as good as none.
    fs::set_permissions(&base, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(runtime_dir().unwrap().parent(), Some(Path::new("/tmp")));
    fs::set_permissions(&base, fs::Permissions::from_mode(0o700)).unwrap();
}
