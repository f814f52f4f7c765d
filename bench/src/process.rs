//! CPU time and memory of a process, or CPU time of a thread, from `/proc`.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};

/// Returns a command that runs a program. The kernel kills it when the calling thread ends, so a benchmark that is killed
/// leaves no process behind.
pub(crate) fn bound_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A process of this machine, or a thread of the calling process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Id of the process or thread.
    id: u32,
    /// Folder of the process or thread in `/proc`.
    folder: PathBuf,
    ticks_per_second: u64,
}

impl Process {
    /// Returns the process with the id `pid`.
    ///
    /// # Errors
    /// When the length of a clock tick is unknown.
    pub fn new(pid: u32) -> Result<Self> {
        Self::in_folder(PathBuf::from(format!("/proc/{pid}")), pid)
    }

    /// Returns a thread of the calling process, for [`Self::cpu_time`]. Threads have no memory of their own.
    ///
    /// # Errors
    /// When the length of a clock tick is unknown.
    pub fn thread(id: u32) -> Result<Self> {
        Self::in_folder(PathBuf::from(format!("/proc/self/task/{id}")), id)
    }

    /// Returns the process or thread whose files are in a folder of `/proc`.
    fn in_folder(folder: PathBuf, id: u32) -> Result<Self> {
        let ticks_per_second =
            sysconf(SysconfVar::CLK_TCK)?.context("the length of a clock tick is unknown")?;
        Ok(Self {
            id,
            folder,
            ticks_per_second: u64::try_from(ticks_per_second)?,
        })
    }

    /// Returns the CPU time of the thread, or of all threads of the process. The resolution is usually 10 ms.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        let text = std::fs::read_to_string(self.folder.join("stat"))
            .with_context(|| format!("process or thread {} has ended", self.id))?;
        self.to_duration(parse_cpu_ticks(&text, 14))
    }

    /// Returns the CPU time of all threads that the process has now, with a resolution of nanoseconds.
    ///
    /// # Errors
    /// When the process has ended, or the kernel has no statistics of its scheduler.
    pub fn cpu_time_of_threads(&self) -> Result<Duration> {
        let threads = std::fs::read_dir(self.folder.join("task"))
            .with_context(|| format!("process {} has ended", self.id))?;
        let mut sum = Duration::ZERO;
        for thread in threads {
            // A thread may end meanwhile.
            if let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) {
                sum +=
                    parse_run_time(&text).context("/proc/PID/task/TID/schedstat has an unexpected format")?;
            }
        }
        ensure!(!sum.is_zero(), "the kernel has no statistics of its scheduler");
        Ok(sum)
    }

    /// Returns the number of system calls by which the process has read, such as `readv`. `recv` and `epoll_wait` do not
    /// count.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn read_count(&self) -> Result<u64> {
        let text = std::fs::read_to_string(self.folder.join("io"))
            .with_context(|| format!("process {} has ended", self.id))?;
        parse_field(&text, "syscr:").context("/proc/PID/io has an unexpected format")
    }

    /// Returns how often a thread of the process has waited, for example for an event.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn wait_count(&self) -> Result<u64> {
        let threads = std::fs::read_dir(self.folder.join("task"))
            .with_context(|| format!("process {} has ended", self.id))?;
        let mut sum = 0;
        for thread in threads {
            // A thread may end meanwhile.
            if let Ok(text) = std::fs::read_to_string(thread?.path().join("status")) {
                sum += parse_field(&text, "voluntary_ctxt_switches:")
                    .context("/proc/PID/task/TID/status has an unexpected format")?;
            }
        }
        Ok(sum)
    }

    /// Returns the CPU time of the process's child processes that have ended, and of their children. The resolution is
    /// usually 10 ms.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn cpu_time_of_children(&self) -> Result<Duration> {
        let text = std::fs::read_to_string(self.folder.join("stat"))
            .with_context(|| format!("process {} has ended", self.id))?;
        self.to_duration(parse_cpu_ticks(&text, 16))
    }

    fn to_duration(&self, ticks: Option<u64>) -> Result<Duration> {
        let ticks = ticks.context("/proc/PID/stat has an unexpected format")?;
        Ok(Duration::from_micros(ticks * 1_000_000 / self.ticks_per_second))
    }

    /// Gives all threads of the process real-time priority, or the normal priority if `realtime` is false. Returns
    /// whether `chrt` of util-linux succeeded, which requires root. Other processes may starve, so only short
    /// measurements below full load may use this function.
    pub fn set_realtime(&self, realtime: bool) -> bool {
        let policy = if realtime { ["--rr", "1"] } else { ["--other", "0"] };
        let mut command = Command::new("chrt");
        command.args(["--all-tasks", policy[0], "--pid", policy[1]]);
        command.arg(self.id.to_string());
        command.status().is_ok_and(|status| status.success())
    }

    /// Returns the number of open descriptors.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn descriptor_count(&self) -> Result<usize> {
        self.count_entries("fd")
    }

    /// Returns the number of threads.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn thread_count(&self) -> Result<usize> {
        self.count_entries("task")
    }

    fn count_entries(&self, folder: &str) -> Result<usize> {
        let entries = std::fs::read_dir(self.folder.join(folder));
        Ok(entries
            .with_context(|| format!("process {} has ended", self.id))?
            .count())
    }

    /// Returns the resident memory in bytes.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn resident_bytes(&self) -> Result<u64> {
        let text = std::fs::read_to_string(self.folder.join("smaps_rollup"))
            .with_context(|| format!("process {} has ended", self.id))?;
        parse_resident_bytes(&text).context("/proc/PID/smaps_rollup has an unexpected format")
    }
}

/// Returns the sum of user and system time in clock ticks, from `/proc/PID/stat`. User time is the field with the number
/// `first`, and system time the next one. The process name, in parentheses before these fields, may contain any character.
fn parse_cpu_ticks(stat: &str, first: usize) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    // The first field after the name is field 3.
    let mut fields = fields.split(' ').skip(first.checked_sub(3)?);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Returns the time that a thread has run, from `/proc/PID/task/TID/schedstat`.
fn parse_run_time(schedstat: &str) -> Option<Duration> {
    let nanoseconds = schedstat.split_ascii_whitespace().next()?;
    Some(Duration::from_nanos(nanoseconds.parse().ok()?))
}

/// Returns the number after `name`, which begins a line, in a file of `/proc`.
fn parse_field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

/// Returns the resident memory in bytes, from `/proc/PID/smaps_rollup`.
fn parse_resident_bytes(smaps: &str) -> Option<u64> {
    let line = smaps.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_are_parsed_after_a_process_name_with_any_characters() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 2 0 0 0 31 11 5 8 20 0 3 0 99 1 2";
        assert_eq!(parse_cpu_ticks(stat, 14), Some(42));
        assert_eq!(parse_cpu_ticks(stat, 16), Some(13));
        assert_eq!(parse_cpu_ticks("7 (a", 14), None);
    }

    #[test]
    fn resident_memory_is_converted_to_bytes() {
        assert_eq!(
            parse_resident_bytes("55-66 ---p [rollup]\nRss:            1204 kB\nPss: 3 kB\n"),
            Some(1204 * 1024)
        );
    }

    #[test]
    fn fields_are_found_by_the_start_of_their_lines() {
        let text = "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t42\n";
        assert_eq!(parse_field(text, "voluntary_ctxt_switches:"), Some(42));
        assert_eq!(parse_field(text, "syscr:"), None);
    }

    #[test]
    fn time_of_a_thread_is_the_first_number() {
        assert_eq!(parse_run_time("1500 20 3\n"), Some(Duration::from_nanos(1500)));
        assert_eq!(parse_run_time(""), None);
    }

    #[test]
    fn own_process_has_memory_and_cpu_time() {
        let process = Process::new(std::process::id()).expect("ticks");
        assert!(process.resident_bytes().expect("memory") > 100_000);
        assert!(process.thread_count().expect("threads") > 0);
        assert!(process.descriptor_count().expect("descriptors") > 0);
        let before = process.cpu_time().expect("time");
        while process.cpu_time().expect("time") == before {}
        assert!(process.cpu_time_of_threads().expect("time") > Duration::ZERO);
        assert!(process.read_count().expect("counters") > 0);
        process.wait_count().expect("counters");
    }
}
