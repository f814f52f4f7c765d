//! The program `nft`: its path, its libraries, and its start.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, chroot};

/// The program `nft`.
#[derive(Clone, Debug)]
pub struct Nft {
    path: PathBuf,
    /// The folder of the program, if it has the libraries of the program.
    libraries: Option<Libraries>,
}

/// A folder with a program, the libraries of the program, and a dynamic loader.
#[derive(Clone, Debug)]
struct Libraries {
    folder: PathBuf,
    /// Path of the loader, relative to the folder.
    loader: PathBuf,
    /// Path of the program, relative to the folder.
    program: PathBuf,
}

// === impl Nft ===

impl Default for Nft {
    /// Uses `nft` in the directory of the running program if that file exists, otherwise `/usr/sbin/nft`.
    fn default() -> Self {
        let beside_program = std::env::current_exe()
            .ok()
            .map(|program| program.with_file_name("nft"));
        let path = beside_program
            .filter(|path| path.is_file())
            .unwrap_or_else(|| PathBuf::from("/usr/sbin/nft"));
        Self {
            path,
            libraries: None,
        }
    }
}

impl Nft {
    /// Uses the program at a path. If the folder of the program contains a dynamic loader (`ld-linux*`), uses the loader
    /// and the libraries of this folder, so that the program needs nothing else of the system.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let libraries = Libraries::beside(&path);
        Self { path, libraries }
    }

    /// Returns the path of the program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the program in the network namespace of the calling thread. Its input and both outputs are pipes.
    pub(crate) fn start(&self, arguments: &[&str]) -> io::Result<Child> {
        match &self.libraries {
            None => start(Command::new(&self.path), arguments),
            Some(libraries) => libraries.start(arguments),
        }
    }
}

fn start(mut command: Command, arguments: &[&str]) -> io::Result<Child> {
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

// === impl Libraries ===

impl Libraries {
    /// Returns the folder of a program; `None` if the folder has no loader.
    fn beside(program: &Path) -> Option<Self> {
        let folder = program.parent()?;
        let mut files = std::fs::read_dir(folder).ok()?.flatten();
        let loader = files.find(|file| file.file_name().as_encoded_bytes().starts_with(b"ld-linux"))?;
        Some(Self {
            folder: folder.to_owned(),
            loader: loader.file_name().into(),
            program: program.file_name()?.into(),
        })
    }

    /// Starts the program with the folder as its root, if this process has the capability `SYS_CHROOT`.
    ///
    /// `nft` asks the system for a user with the name of each UID in the rules. In its folder, it finds neither a database
    /// of users nor a configuration of directory services, so these can neither delay nor change the rules.
    fn start(&self, arguments: &[&str]) -> io::Result<Child> {
        let start = || {
            let has_entered = self.enter().is_ok();
            let folder = if has_entered { Path::new("/") } else { &self.folder };
            let mut command = Command::new(folder.join(&self.loader));
            command
                .arg("--library-path")
                .arg(folder)
                .arg(folder.join(&self.program));
            start(command, arguments)
        };
        // The thread has a root of its own.
        let started = thread::scope(|scope| scope.spawn(start).join());
        started.unwrap_or_else(|_| Err(io::Error::other("the thread that starts nft panicked")))
    }

    /// Makes the folder the root of the calling thread.
    fn enter(&self) -> nix::Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        chroot(&self.folder)?;
        chdir("/")
    }
}
