//! Units of others, which mean other things than ours.

/// A share as a source writes it without a unit: percent, 0 to 100.
pub fn percent(text: &str) -> Result<String, String> {
    match text.trim().parse::<f64>() {
        Ok(share) if (0.0..=100.0).contains(&share) => Ok(format!("{share}%")),
        Ok(_) => Err(format!("'{text}' is not from 0 to 100: it is percent, without a unit")),
        Err(_) => Err(format!("'{text}' is not a number: it is percent, without a unit")),
    }
}

/// A Go duration (`1.5h`, `1h30m`, `90ms`, `5µs`) in our words.
pub fn go_duration(text: &str) -> Result<String, String> {
    let ours = text.trim().replace("µs", "us").replace("μs", "us");
    if is_zero(&ours) && ours.ends_with(|c: char| c.is_ascii_alphabetic()) {
        return Ok("0ms".to_owned());
    }
    match crate::spec::units::duration(&ours) {
        Ok(_) if ours.chars().any(|c| c.is_ascii_alphabetic()) => Ok(ours),
        Ok(_) => Err(format!("'{text}' has no unit: write 10s, for example")),
        Err(why) => Err(why),
    }
}

/// The sum of times in our words.
pub fn sum(times: &[&str]) -> Result<String, String> {
    let mut sum = std::time::Duration::ZERO;
    for time in times {
        sum += crate::spec::units::duration(time)?;
    }
    let ns = sum.as_nanos();
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")];
    let found = units.iter().find(|(scale, _)| ns.is_multiple_of(*scale));
    Ok(found.map_or_else(|| format!("{ns}ns"), |(scale, unit)| format!("{}{unit}", ns / scale)))
}

/// A rate in tc's words, in bits: `bit` units are bits, `bps` units are bytes per second.
pub fn tc_rate(text: &str) -> Result<String, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let wrong = || format!("'{text}' is not a rate of tc: write 1mbit (bits) or 125kbps (bytes)");
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let (prefix, bytes) = match unit {
        // tc reads a number without a unit as bits.
        "" => ("", false),
        unit => match (unit.strip_suffix("bit"), unit.strip_suffix("bps")) {
            (Some(prefix), _) => (prefix, false),
            (_, Some(prefix)) => (prefix, true),
            _ => return Err(wrong()),
        },
    };
    let scale = match prefix {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        "ki" => 1024.0,
        "mi" => 1024.0 * 1024.0,
        "gi" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wrong()),
    };
    bits(number * scale * if bytes { 8.0 } else { 1.0 })
}

/// Bits per second in our words.
pub fn bits(bits: f64) -> Result<String, String> {
    if !(8.0..=1e12).contains(&bits) {
        return Err(format!("{bits} bit/s is not between the limits of 8bit and 1000gbit"));
    }
    let units = [(1e9, "gbit"), (1e6, "mbit"), (1e3, "kbit")];
    let found = units.iter().find(|(scale, _)| bits % scale == 0.0);
    Ok(found.map_or_else(|| format!("{bits}bit"), |(scale, unit)| format!("{}{unit}", bits / scale)))
}

/// A size in tc's words, in ours: without a unit it is bytes, and prefixes are powers of 1024.
pub fn tc_size(text: &str) -> Result<String, String> {
    let lower = text.trim().to_ascii_lowercase();
    // What is behind a slash tells how finely tc computes.
    let lower = lower.split('/').next().unwrap_or_default();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let wrong = || format!("'{text}' is not a size of tc: write 32kbit (bits) or 4kb (bytes)");
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let scale = match unit {
        "" | "b" => 1.0,
        "k" | "kb" => 1024.0,
        "m" | "mb" => 1024.0 * 1024.0,
        "g" | "gb" => 1024.0 * 1024.0 * 1024.0,
        "kbit" => 1024.0 / 8.0,
        "mbit" => 1024.0 * 1024.0 / 8.0,
        "gbit" => 1024.0 * 1024.0 * 1024.0 / 8.0,
        _ => return Err(wrong()),
    };
    let bytes: crate::spec::units::Bytes = format!("{}b", (number * scale) as u64).parse()?;
    Ok(bytes.to_string())
}

/// A time in tc's words: `s`, `ms`, `us`, and what has no unit is microseconds.
pub fn tc_time(text: &str) -> Result<String, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("'{text}' is not a time of tc: write 100ms");
    let value: f64 = number.parse().map_err(|_| wrong())?;
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "us" | "usec" | "usecs" => "us",
        "ms" | "msec" | "msecs" => "ms",
        "s" | "sec" | "secs" => "s",
        _ => return Err(wrong()),
    };
    Ok(format!("{value}{unit}"))
}

/// Whether a time is 0.
pub fn is_zero(time: &str) -> bool {
    let mut digits = time.chars().filter(char::is_ascii_digit).peekable();
    digits.peek().is_some() && digits.all(|digit| digit == '0')
}

/// A remote end as others write it: an address, a prefix (whose host bits are nothing), or a name.
pub fn remote(text: &str) -> Result<String, String> {
    if let Ok(net) = text.parse::<ipnet::IpNet>() {
        return Ok(net.trunc().to_string());
    }
    crate::spec::network::remote(text).map(|_| text.to_owned())
}

/// Whether a remote end is a name, whose addresses are looked up at the start.
pub fn is_name(remote: &str) -> bool {
    remote.parse::<ipnet::IpNet>().is_err() && remote.parse::<std::net::IpAddr>().is_err()
}

/// A remote end with a port behind it, as `1.1.1.1:80`, `10.0.0.0/8:22`, `[::1]:80`.
pub fn remote_and_port(text: &str) -> Result<(String, Option<String>), String> {
    if text.parse::<ipnet::IpNet>().is_ok() || text.parse::<std::net::IpAddr>().is_ok() {
        return Ok((remote(text)?, None));
    }
    match text.rsplit_once(':') {
        Some((host, port)) => {
            let number: u16 = port.parse().map_err(|_| format!("'{text}' has no port behind its colon"))?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Ok((remote(host)?, (number != 0).then(|| number.to_string())))
        }
        None => Ok((remote(text)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_not_bytes() {
        for (text, ours) in [
            ("1mbit", "1mbit"),
            ("1mbps", "8mbit"),
            ("1MBPS", "8mbit"),
            ("100kbps", "800kbit"),
            ("1500", "1500bit"),
            ("1kibit", "1024bit"),
            ("0.5gbit", "500mbit"),
        ] {
            assert_eq!(tc_rate(text).unwrap(), ours, "{text}");
        }
        for bad in ["1mb", "fast", "", "1bit", "1xbps"] {
            assert!(tc_rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_of_tc_are_bytes_without_a_unit() {
        let sizes = ["1540", "32kbit", "10k/8", "1.5mb", "1gb"].map(|text| tc_size(text).unwrap());
        assert_eq!(sizes, ["1540b", "4kb", "10kb", "1536kb", "1024mb"]);
        for bad in ["", "k", "3tb", "-1", "0", "2gb"] {
            assert!(tc_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_and_shares_need_what_their_source_needs() {
        assert_eq!(go_duration("1.5h").unwrap(), "1.5h");
        assert_eq!(go_duration("5µs").unwrap(), "5us");
        assert_eq!(go_duration("0s").unwrap(), "0ms");
        assert!(go_duration("10").is_err() && go_duration("").is_err());
        assert_eq!(tc_time("100").unwrap(), "100us");
        assert_eq!(tc_time("100msec").unwrap(), "100ms");
        assert!(tc_time("100m").is_err());
        assert_eq!(sum(&["1m30s", "500ms"]).unwrap(), "90500ms");
        assert_eq!((sum(&["5us"]).unwrap(), sum(&[]).unwrap()), ("5us".to_owned(), "0s".to_owned()));
        assert!(sum(&["5"]).is_err());
        assert_eq!(percent("0.50").unwrap(), "0.5%");
        assert!(percent("5%").is_err() && percent("101").is_err());
    }

    #[test]
    fn remote_ends_may_have_a_port() {
        assert_eq!(remote_and_port("10.1.2.3/8:22").unwrap(), ("10.0.0.0/8".into(), Some("22".into())));
        assert_eq!(remote_and_port("[::1]:80").unwrap(), ("::1".into(), Some("80".into())));
        assert_eq!(remote_and_port("fd00::1").unwrap(), ("fd00::1".into(), None));
        assert!(remote_and_port("a:b").is_err());
    }
}
