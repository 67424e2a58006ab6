//! How much memory there is for the program: that of the machine, or what its cgroup may have.

use std::fs;
use std::path::{Path, PathBuf};

/// Where nothing tells.
const UNKNOWN: u64 = 1 << 30;

/// Half of the memory that there is for the program, in bytes.
pub(crate) fn half() -> u64 {
    // Not /proc/meminfo, which a sandbox of systemd may hide (ProcSubset=pid).
    let sysinfo = rustix::system::sysinfo();
    let machine = sysinfo.totalram.checked_mul(u64::from(sysinfo.mem_unit));
    let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = files(&cgroup).into_iter().filter_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        // `max` of version 2 is no number, and version 1 says a large one.
        text.trim().parse().ok()
    });
    limits.chain(machine).min().unwrap_or(UNKNOWN) / 2
}

/// Where the limits of a cgroup and of all above it stand (cgroups(7), `/proc/[pid]/cgroup`); within a container the path
/// may be one of its host, and then the limit stands at the root.
fn files(cgroup: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            controllers if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let path = Path::new(path.trim_start_matches('/'));
        files.extend(path.ancestors().map(|path| Path::new(root).join(path).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_looked_for_up_to_the_root() {
        let two = files("0::/system.slice/casgate.service\n");
        let expected = ["system.slice/casgate.service/", "system.slice/", ""];
        let expected = expected.map(|path| PathBuf::from(format!("/sys/fs/cgroup/{path}memory.max")));
        assert_eq!(two, expected);
        let one = files("5:cpu,memory:/a\n4:pids:/a\n");
        assert_eq!(one[1], Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
        assert_eq!(files("x\n1:y"), Vec::<PathBuf>::new());
        assert!(half() > 1 << 20);
    }
}
