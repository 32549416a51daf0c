//! Fills the tables that say which rules an event is not ruled out for.

use super::object::{Error, Maps, of};
use crate::encode::Image;
use aya::maps::{Array, HashMap, LpmTrie, lpm_trie::Key};
use chaos_common::syscall_match::{Arguments, COMM_BYTES, PATTERN_BYTES, Wanted};

impl Maps {
    /// Writes the match tables of packets and of calls.
    pub(super) fn fill_matches(&mut self, image: &Image) -> Result<(), Error> {
        self.fill_packet_matches(image)?;
        self.fill_caller_matches(image)?;
        self.fill_argument_matches(image)
    }

    fn fill_packet_matches(&mut self, image: &Image) -> Result<(), Error> {
        let mut remote: LpmTrie<_, [u8; 4], u64> =
            self.map("KC_REMOTE4")?.try_into().map_err(of("KC_REMOTE4"))?;
        for (net, mask) in &image.remote4 {
            let key = Key::new(net.prefix_len().into(), net.network().octets());
            remote.insert(&key, mask, 0).map_err(of("KC_REMOTE4"))?;
        }
        let mut remote: LpmTrie<_, [u8; 16], u64> =
            self.map("KC_REMOTE6")?.try_into().map_err(of("KC_REMOTE6"))?;
        for (net, mask) in &image.remote6 {
            let key = Key::new(net.prefix_len().into(), net.network().octets());
            remote.insert(&key, mask, 0).map_err(of("KC_REMOTE6"))?;
        }
        let mut ports: Array<_, u64> = self.map("KC_PORTS")?.try_into().map_err(of("KC_PORTS"))?;
        for (port, mask) in &image.ports {
            ports.set((*port).into(), mask, 0).map_err(of("KC_PORTS"))?;
        }
        let mut ports: Array<_, u64> =
            self.map("KC_LOCAL_PORTS")?.try_into().map_err(of("KC_LOCAL_PORTS"))?;
        for (port, mask) in &image.local_ports {
            ports.set((*port).into(), mask, 0).map_err(of("KC_LOCAL_PORTS"))?;
        }
        Ok(())
    }

    fn fill_caller_matches(&mut self, image: &Image) -> Result<(), Error> {
        let mut comms: LpmTrie<_, [u8; COMM_BYTES], u64> =
            self.map("KC_COMMS")?.try_into().map_err(of("KC_COMMS"))?;
        for (begin, mask) in &image.comms {
            let mut name = [0; COMM_BYTES];
            name.iter_mut().zip(begin).for_each(|(to, from)| *to = *from);
            comms.insert(&Key::new(8 * begin.len() as u32, name), mask, 0).map_err(of("KC_COMMS"))?;
        }
        let mut uids: HashMap<_, u32, u64> = self.map("KC_UIDS")?.try_into().map_err(of("KC_UIDS"))?;
        for (uid, mask) in &image.uids {
            uids.insert(uid, mask, 0).map_err(of("KC_UIDS"))?;
        }
        Ok(())
    }

    fn fill_argument_matches(&mut self, image: &Image) -> Result<(), Error> {
        for (name, table) in
            [("KC_PATH_BEGINNINGS", &image.path_beginnings), ("KC_PATH_ENDINGS", &image.path_endings)]
        {
            let mut trie: LpmTrie<_, [u8; PATTERN_BYTES], u64> =
                self.map(name)?.try_into().map_err(of(name))?;
            for (begin, patterns) in table {
                let mut key = [0; PATTERN_BYTES];
                key.iter_mut().zip(begin).for_each(|(to, from)| *to = *from);
                trie.insert(&Key::new(8 * begin.len() as u32, key), patterns, 0).map_err(of(name))?;
            }
        }
        let mut lengths: Array<_, u64> =
            self.map("KC_PATH_LENGTHS")?.try_into().map_err(of("KC_PATH_LENGTHS"))?;
        for (length, patterns) in image.path_lengths.iter().enumerate() {
            lengths.set(length as u32, patterns, 0).map_err(of("KC_PATH_LENGTHS"))?;
        }
        let mut arguments: Array<_, Arguments> =
            self.map("KC_ARGUMENTS")?.try_into().map_err(of("KC_ARGUMENTS"))?;
        for (row, places) in &image.arguments {
            arguments.set(*row, places, 0).map_err(of("KC_ARGUMENTS"))?;
        }
        let mut all_wanted: Array<_, Wanted> = self.map("KC_WANTED")?.try_into().map_err(of("KC_WANTED"))?;
        for (rule, wanted) in &image.wanted {
            all_wanted.set(*rule, wanted, 0).map_err(of("KC_WANTED"))?;
        }
        Ok(())
    }
}
