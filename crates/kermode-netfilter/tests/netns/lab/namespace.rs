//! A network namespace without a name: it exists while something holds it.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;

/// Held open by its file.
pub(crate) struct Namespace(File);

impl Namespace {
    /// A new one, with its loopback interface up.
    pub(crate) fn new() -> Self {
        assert!(
            geteuid().is_root(),
            "these tests make network namespaces and change rules in them: run them as root, with `make test-netns`"
        );
        // In a thread of its own, so that this one stays where it is.
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (needs CAP_SYS_ADMIN)");
            File::open("/proc/thread-self/ns/net").expect("proc is mounted")
        };
        let namespace = Self(thread::spawn(make).join().expect("the namespace is made"));
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs something inside.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                job()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread inside, for good.
    pub(crate) fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
    }

    /// Another hold on it.
    pub(crate) fn hold(&self) -> Self {
        Self(self.0.try_clone().expect("a file can be duplicated"))
    }

    /// Runs `ip` with these arguments inside.
    pub(crate) fn ip(&self, arguments: &str) {
        self.command("ip", arguments.split(' ').collect::<Vec<_>>().as_slice(), "");
    }

    /// Runs a program inside with that input; it must succeed. Returns its output.
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
                .expect("piped")
                .write_all(input.as_bytes())
                .expect("the input is read");
            let output = child.wait_with_output().expect("it ends");
            assert!(output.status.success(), "{program} {arguments:?} failed");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    /// Where other processes find it while this one lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}
