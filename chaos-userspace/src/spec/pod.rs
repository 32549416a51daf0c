//! Pods of Kubernetes, as their users name them.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// Which pods, and what of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pods {
    /// Which pods.
    pub which: Which,
    /// The one container that is meant; without it the whole pod.
    pub container: Option<String>,
}

/// How pods are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one of this name.
    Named {
        /// Its namespace.
        namespace: String,
        /// Its own name.
        name: String,
    },
    /// All of this node that have all these labels.
    Labelled(BTreeMap<String, String>),
}

/// Longest name of a pod (a DNS subdomain, RFC 1123).
const NAME_BYTES_MAX: usize = 253;
/// Longest name of a namespace or container, value of a label, and name of a label behind its prefix.
const LABEL_BYTES_MAX: usize = 63;

/// One pod: `NAMESPACE/NAME` or `NAMESPACE/NAME:CONTAINER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName(pub Pods);

/// Pods by their labels: `app=web,tier=front` or `app=web:CONTAINER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLabels(pub Pods);

impl FromStr for PodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pod, container) = with_container(text)?;
        let Some((namespace, name)) = pod.split_once('/') else {
            return Err(format!(
                "{text:?} names no pod: write NAMESPACE/NAME, as in default/{pod}, or NAMESPACE/NAME:CONTAINER"
            ));
        };
        for (part, what, most) in
            [(namespace, "namespace", LABEL_BYTES_MAX), (name, "name of a pod", NAME_BYTES_MAX)]
        {
            check(part, what, most).map_err(|problem| format!("{text:?}: {problem}"))?;
        }
        let which = Which::Named { namespace: namespace.to_owned(), name: name.to_owned() };
        Ok(Self(Pods { which, container }))
    }
}

impl FromStr for PodLabels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (list, container) = with_container(text)?;
        let mut labels = BTreeMap::new();
        for pair in list.split(',') {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(format!(
                    "{text:?}: {pair:?} is no label: write KEY=VALUE, as in app=web,tier=front"
                ));
            };
            let problem = |problem: String| format!("{text:?}: {problem}");
            let name = match key.split_once('/') {
                Some((prefix, name)) => {
                    check(prefix, "prefix of a label", NAME_BYTES_MAX).map_err(problem)?;
                    name
                }
                None => key,
            };
            check(name, "name of a label", LABEL_BYTES_MAX).map_err(problem)?;
            if !value.is_empty() {
                check(value, "value of a label", LABEL_BYTES_MAX).map_err(problem)?;
            }
            if labels.insert(key.to_owned(), value.to_owned()).is_some_and(|other| other != value) {
                return Err(format!("{text:?}: a pod has one value of {key:?}, not two"));
            }
        }
        Ok(Self(Pods { which: Which::Labelled(labels), container }))
    }
}

/// Takes a container's name from the end.
fn with_container(text: &str) -> Result<(&str, Option<String>), String> {
    let Some((pod, container)) = text.rsplit_once(':') else { return Ok((text, None)) };
    check(container, "name of a container", LABEL_BYTES_MAX)
        .map_err(|problem| format!("{text:?}: {problem}"))?;
    Ok((pod, Some(container.to_owned())))
}

/// Kubernetes has names in small letters, and only labels in both; what else speaks CRI is not so strict.
fn check(name: &str, what: &str, most: usize) -> Result<(), String> {
    let usable = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.len() <= most && name.chars().all(usable)
    {
        Ok(())
    } else {
        Err(format!(
            "{name:?} is no {what}: it has up to {most} letters, digits and -_. and begins with a letter or a digit"
        ))
    }
}

impl fmt::Display for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.which {
            Which::Named { namespace, name } => write!(f, "pod {namespace}/{name}")?,
            Which::Labelled(labels) => {
                let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(f, "pods with {}", labels.join(","))?;
            }
        }
        self.container.as_ref().map_or(Ok(()), |container| write!(f, ", container {container}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(text: &str) -> Result<String, String> {
        text.parse().map(|PodName(pods)| pods.to_string())
    }

    fn labelled(text: &str) -> Result<String, String> {
        text.parse().map(|PodLabels(pods)| pods.to_string())
    }

    #[test]
    fn pods_have_a_namespace_and_perhaps_a_container() {
        assert_eq!(named("shop/web-7d4b9c.x").as_deref(), Ok("pod shop/web-7d4b9c.x"));
        assert_eq!(named("shop/web-0:nginx").as_deref(), Ok("pod shop/web-0, container nginx"));
        assert!(named("web-0").unwrap_err().contains("default/web-0"));
        for bad in ["", "/", "a/", "/b", "a/b/c", "a/b:", ":c", "a/b:c d", "a/b\n", "../x", "a/..", "a/b*"] {
            assert!(named(bad).is_err(), "{bad:?}");
        }
        assert!(named(&format!("{}/a", "x".repeat(64))).unwrap_err().contains("63"));
    }

    #[test]
    fn labels_are_all_asked_for() {
        assert_eq!(labelled("tier=front,app=web").as_deref(), Ok("pods with app=web,tier=front"));
        assert_eq!(
            labelled("app.kubernetes.io/name=web:nginx").as_deref(),
            Ok("pods with app.kubernetes.io/name=web, container nginx")
        );
        assert_eq!(labelled("canary=").as_deref(), Ok("pods with canary="));
        for bad in
            ["", "app", "=web", "app=web,", "app=a,app=b", "app=we b", "a/b/c=d", "app==web", "app!=web"]
        {
            assert!(labelled(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_read_the_same_again(text in "[a-c./:=,-]{0,12}") {
            if let Ok(PodName(pods)) = text.parse() {
                let Which::Named { namespace, name } = &pods.which else { return Err(TestCaseError::fail("labels")) };
                let container = pods.container.as_ref().map(|own| format!(":{own}")).unwrap_or_default();
                prop_assert_eq!(format!("{namespace}/{name}{container}"), text);
            }
        }
    }
}
