//! An anonymous network namespace, which exists while a file descriptor or thread refers to it.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;

/// A network namespace, held by an open file.
pub(crate) struct Namespace(File);

impl Namespace {
    /// Creates a namespace and enables its loopback interface.
    pub(crate) fn new() -> Self {
        assert!(
            geteuid().is_root(),
            "these tests create network namespaces and change rules in them: run `make test-netns` as root"
        );
        // A separate thread calls unshare, which moves its caller into the new namespace.
        let create = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (needs CAP_SYS_ADMIN)");
            File::open("/proc/thread-self/ns/net").expect("proc is mounted")
        };
        let namespace = Self(thread::spawn(create).join().expect("the namespace is created"));
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs a function on a new thread in the namespace.
    pub(crate) fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                function()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace permanently.
    pub(crate) fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
    }

    /// Returns another reference to the namespace.
    pub(crate) fn duplicate(&self) -> Self {
        Self(self.0.try_clone().expect("a file can be duplicated"))
    }

    /// Runs the program `ip` in the namespace.
    pub(crate) fn ip(&self, arguments: &str) {
        self.command("ip", arguments.split(' ').collect::<Vec<_>>().as_slice(), "");
    }

    /// Runs a program in the namespace with `input` as its standard input. The program must succeed. Returns its
    /// standard output.
    pub(crate) fn command(&self, program: &str, arguments: &[&str], input: &str) -> String {
        self.run(|| {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
            child
                .stdin
                .take()
                .expect("a pipe")
                .write_all(input.as_bytes())
                .expect("the input is read");
            let output = child.wait_with_output().expect("the program ends");
            assert!(output.status.success(), "{program} {arguments:?} failed");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    /// Returns a path by which other processes can refer to the namespace while this process runs.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}
