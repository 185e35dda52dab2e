//! Reads a page of metrics, as Prometheus is told them.

/// The sum over labels of a metric with these words in its line.
///
/// # Errors
/// When a line does not end with a number.
pub fn sum(page: &str, name: &str, with: &str) -> anyhow::Result<f64> {
    let of_metric = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(with)
    };
    let lines = page.lines().filter(of_metric);
    let values = lines.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<f64>());
    Ok(values.sum::<Result<f64, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_other_names_and_labels_do_not_count() {
        let page = "# TYPE m gauge\nm{kind=\"used\"} 3\nm{kind=\"max\"} 9\nm_more 7\nm{kind=\"used\",x=\"y\"} 2\n";
        assert_eq!(sum(page, "m", "kind=\"used\"").unwrap(), 5.0);
        assert_eq!(sum(page, "m", "").unwrap(), 14.0);
    }
}
