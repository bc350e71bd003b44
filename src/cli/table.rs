//! Plain text for people: aligned tables, dates, sizes.

/// Which side the text of a column keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Aligns rows under a header, columns two spaces apart. Nothing but ASCII is expected, so bytes are columns.
pub(super) fn table<const N: usize>(header: [(&str, Side); N], rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].len());
        cells.chain([header[column].0.len()]).max().unwrap_or(0)
    });
    let mut out = String::new();
    let mut line = |cells: [&str; N]| {
        let aligned: [String; N] = std::array::from_fn(|column| {
            let width = widths[column];
            match header[column].1 {
                Side::Left => format!("{:<width$}", cells[column]),
                Side::Right => format!("{:>width$}", cells[column]),
            }
        });
        out.push_str(aligned.join("  ").trim_end());
        out.push('\n');
    };
    line(header.map(|(title, _)| title));
    for row in rows {
        line(row.each_ref().map(String::as_str));
    }
    out
}

/// Cuts a text to `width` columns, with an ellipsis where something is missing.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.len() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(2)).collect();
    format!("{kept}..")
}

/// A time as `2026-11-21 04:05 UTC`, from seconds since 1970.
pub(super) fn date(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    // Days to a civil date in the proleptic Gregorian calendar, by eras of 400 years that start on March 1st
    // (H. Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02} UTC",
        seconds / 3600,
        seconds % 3600 / 60
    )
}

/// How long until `then`, rounded: `12 days`, `5 hours`, `3 minutes`; `over` when it is past.
pub(super) fn until(then: u64, now: u64) -> String {
    match span(then, now) {
        None => "over".to_owned(),
        Some((1, unit)) => format!("1 {unit}"),
        Some((number, unit)) => format!("{number} {unit}s"),
    }
}

/// The same for a narrow column: `12 d`, `5 h`, `3 min`.
pub(super) fn until_narrow(then: u64, now: u64) -> String {
    match span(then, now) {
        None => "over".to_owned(),
        Some((number, "day")) => format!("{number} d"),
        Some((number, "hour")) => format!("{number} h"),
        Some((number, _)) => format!("{number} min"),
    }
}

fn span(then: u64, now: u64) -> Option<(u64, &'static str)> {
    let rounded = |left: u64, unit: u64| left / unit + u64::from(left % unit >= unit / 2);
    match then.checked_sub(now).filter(|&left| left > 0)? {
        left @ 172_800.. => Some((rounded(left, 86_400), "day")),
        left @ 7200.. => Some((rounded(left, 3600), "hour")),
        left => Some((left.div_ceil(60), "minute")),
    }
}

/// A rate from KiB/s: `10 MiB/s`, `1.5 GiB/s`.
pub(super) fn rate(kib: u32) -> String {
    let scaled = |unit: u32| {
        let (whole, tenth) = (kib / unit, u64::from(kib % unit) * 10 / u64::from(unit));
        if tenth == 0 {
            format!("{whole}")
        } else {
            format!("{whole}.{tenth}")
        }
    };
    match kib {
        0..1024 => format!("{kib} KiB/s"),
        1024..1_048_576 => format!("{} MiB/s", scaled(1024)),
        _ => format!("{} GiB/s", scaled(1_048_576)),
    }
}

/// Reads a rate: a number of KiB/s, or with `M` or `G` of MiB/s or GiB/s. Gives KiB/s.
pub(super) fn parse_rate(text: &str) -> Result<u32, String> {
    let (digits, factor) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1),
        None => match (text.strip_suffix(['M', 'm']), text.strip_suffix(['G', 'g'])) {
            (Some(digits), _) => (digits, 1024),
            (None, Some(digits)) => (digits, 1_048_576),
            (None, None) => (text, 1),
        },
    };
    let number: u32 = digits
        .parse()
        .map_err(|_| "a rate is a number of KiB/s, or like 10M (MiB/s) or 1G (GiB/s)".to_owned())?;
    number
        .checked_mul(factor)
        .ok_or_else(|| "that rate is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["a".to_owned(), "1".to_owned()],
            ["long".to_owned(), "100".to_owned()],
        ];
        let text = table([("X", Side::Left), ("N", Side::Right)], &rows);
        assert_eq!(text, "X       N\na       1\nlong  100\n");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (68_169_600, "1972-02-29 00:00 UTC"),
            (951_868_799, "2000-02-29 23:59 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_795_233_900, "2026-11-21 04:05 UTC"),
            (1_798_761_599, "2026-12-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(unix), text);
        }
        // The largest time a document may hold.
        assert!(date(u64::MAX).ends_with("UTC"));
    }

    #[test]
    fn spans_and_rates_are_short() {
        assert_eq!(until(100, 100), "over");
        assert_eq!(until(1, 100), "over");
        assert_eq!(until(160, 100), "1 minute");
        assert_eq!(until(7199, 0), "120 minutes");
        assert_eq!(until(7200, 0), "2 hours");
        assert_eq!(until(172_800, 0), "2 days");
        assert_eq!(until(14 * 86_400 - 600, 0), "14 days");
        assert_eq!(until(u64::MAX, 0), "213503982334601 days");
        let narrow = [1, 60, 7200, 172_800].map(|left| until_narrow(left, 0));
        assert_eq!(narrow, ["1 min", "1 min", "2 h", "2 d"]);
        assert_eq!(until_narrow(0, 0), "over");
        for (kib, text) in [
            (0, "0 KiB/s"),
            (1023, "1023 KiB/s"),
            (10 << 10, "10 MiB/s"),
            (1536, "1.5 MiB/s"),
            (1 << 20, "1 GiB/s"),
            (u32::MAX, "4095.9 GiB/s"),
        ] {
            assert_eq!(rate(kib), text);
        }
        assert_eq!(cut("accept tcp", 10), "accept tcp");
        assert_eq!(cut("accept tcp *", 10), "accept t..");
    }

    #[test]
    fn rates_are_read_with_their_unit() {
        for (text, kib) in [("7", 7), ("7k", 7), ("10M", 10 << 10), ("1G", 1 << 20)] {
            assert_eq!(parse_rate(text), Ok(kib));
        }
        for bad in ["", "M", "-1", "1.5M", "1T", "4096G", "99999999999"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }
}
