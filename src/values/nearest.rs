//! Which known name was meant by a mistyped one.

/// Longer names are not compared: no key or flag is that long, and the cost is the product of the lengths.
const COMPARED_BYTES_MAX: usize = 64;

/// The known name that is fewest slips away from `given`, if that is near enough to be a slip: at most a third of the
/// letters wrong, left out, added or swapped with their neighbour. Else the only one of which `given` is a beginning or
/// an end, by whole words.
pub fn nearest<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    let given = given.to_ascii_lowercase();
    if given.len() > COMPARED_BYTES_MAX {
        return None;
    }
    let allowed = (given.len() / 3).max(1);
    let best = known.iter().map(|name| (slips(given.as_bytes(), name.as_bytes()), *name)).min()?;
    (best.0 <= allowed).then_some(best.1).or_else(|| shortened(&given, known))
}

/// The one known name that begins or ends with the words of `given`, as `api_gateway_port` ends with `port`.
fn shortened<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    let is_longer = |name: &&&str| match (name.strip_prefix(given), name.strip_suffix(given)) {
        (Some(rest), _) if rest.starts_with(['_', '-']) => true,
        (_, Some(rest)) => rest.ends_with(['_', '-']),
        _ => false,
    };
    let mut longer = known.iter().filter(|_| !given.is_empty()).filter(is_longer);
    match (longer.next(), longer.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// Edit distance with swaps of neighbours (optimal string alignment), by bytes.
fn slips(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = a[i - 1] == b[j - 1];
            let mut cost = (above[j] + 1).min(row[j - 1] + 1).min(above[j - 1] + usize::from(!same));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                cost = cost.min(before[j - 2] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_count_each_kind_once() {
        for (a, b, expected) in
            [("", "", 0), ("ab", "", 2), ("host", "hots", 1), ("port", "prt", 1), ("memory", "memroyy", 2)]
        {
            assert_eq!(slips(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
            assert_eq!(slips(b.as_bytes(), a.as_bytes()), expected, "{b} {a}");
        }
    }

    #[test]
    fn only_a_near_name_is_offered() {
        let known = ["memory", "timeout", "handler"];
        assert_eq!(nearest("memroy", &known), Some("memory"));
        assert_eq!(nearest("Timeout", &known), Some("timeout"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!(nearest("memory", &[]), None);
        assert_eq!(nearest(&"memory".repeat(1000), &known), None);
    }

    #[test]
    fn a_part_of_one_name_alone_is_taken_for_it() {
        let known = ["api_gateway_port", "process_isolation_level", "logging_level", "--check-system"];
        assert_eq!(nearest("port", &known), Some("api_gateway_port"));
        assert_eq!(nearest("--check", &known), Some("--check-system"));
        assert_eq!(nearest("level", &known), None, "that could be two");
        assert_eq!(nearest("gateway", &known), None);
        assert_eq!(nearest("ort", &known), None, "not a whole word");
        assert_eq!(nearest("", &known), None);
    }
}
