//! What a process uses, from `/proc`.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// A process of this machine.
#[derive(Clone, Debug)]
pub struct Process {
    pid: u32,
    folder: PathBuf,
    ticks_per_second: u64,
}

impl Process {
    /// The process of that id.
    ///
    /// # Errors
    /// When the system does not say how it counts.
    pub fn new(pid: u32) -> Result<Self> {
        Self::found_in(PathBuf::from(format!("/proc/{pid}")), pid)
    }

    /// A thread of this process, for its CPU time: memory is not a thread's.
    ///
    /// # Errors
    /// When the system does not say how it counts.
    pub fn thread(id: u32) -> Result<Self> {
        Self::found_in(PathBuf::from(format!("/proc/self/task/{id}")), id)
    }

    fn found_in(folder: PathBuf, pid: u32) -> Result<Self> {
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("the clock's ticks are unknown")?;
        Ok(Self {
            pid,
            folder,
            ticks_per_second: u64::try_from(ticks)?,
        })
    }

    /// CPU time of all its threads until now, in steps of 10 ms as a rule.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu(&self) -> Result<Duration> {
        let text = std::fs::read_to_string(self.folder.join("stat")).context("the process is gone")?;
        let ticks = ticks(&text).context("/proc/PID/stat has another form")?;
        Ok(Duration::from_micros(ticks * 1_000_000 / self.ticks_per_second))
    }

    /// Lets all its threads run before whatever else the machine does, or no longer. Whether that was possible: it
    /// takes root and `chrt` of util-linux. For short measurements of latency at less than full load only.
    pub fn prefer(&self, prefer: bool) -> bool {
        let policy = if prefer { ["--rr", "1"] } else { ["--other", "0"] };
        let mut command = Command::new("chrt");
        command.args(["--all-tasks", policy[0], "--pid", policy[1]]);
        command.arg(self.pid.to_string());
        command.status().is_ok_and(|status| status.success())
    }

    /// Resident memory, in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident(&self) -> Result<u64> {
        let text =
            std::fs::read_to_string(self.folder.join("smaps_rollup")).context("the process is gone")?;
        resident(&text).context("/proc/PID/smaps_rollup has another form")
    }
}

/// User and system time. The name in parentheses before them may have anything in it.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn resident(smaps: &str) -> Option<u64> {
    let line = smaps.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 2 0 0 0 31 11 0 0 20 0 3 0 99 1 2";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(
            resident("55-66 ---p [rollup]\nRss:            1204 kB\nPss: 3 kB\n"),
            Some(1204 * 1024)
        );
    }

    #[test]
    fn this_process_uses_something() {
        let process = Process::new(std::process::id()).expect("ticks");
        assert!(process.resident().expect("memory") > 100_000);
        let before = process.cpu().expect("time");
        while process.cpu().expect("time") == before {}
    }
}
