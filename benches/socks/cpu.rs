//! What processes cost.

/// Processor seconds of processes so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cpu {
    user: f64,
    pub(crate) kernel: f64,
}

impl Cpu {
    /// From /proc/PID/stat, in steps of 10 ms.
    pub(crate) fn of(pids: &[u32]) -> Self {
        let mut sum = Self::default();
        for pid in pids {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
            // USER_HZ is 100 on every Linux that user space sees.
            sum.user += fields[11].parse::<f64>().unwrap() / 100.0;
            sum.kernel += fields[12].parse::<f64>().unwrap() / 100.0;
        }
        sum
    }

    pub(crate) fn all(self) -> f64 {
        self.user + self.kernel
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            user: self.user - before.user,
            kernel: self.kernel - before.kernel,
        }
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
