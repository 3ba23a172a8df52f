package drivers

import "strings"

// maxFeatureName is ETH_GSTRING_LEN (linux/ethtool.h) without its NUL.
const maxFeatureName = 31

// FeatureName says whether a feature can have the name. Which names there are,
// only the kernel knows (netdev_features_strings of net/ethtool/common.c): it
// has '_' in some, and none of blank, '=' or what cannot be printed in any.
func FeatureName(name string) bool {
	odd := func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '=' }
	return name != "" && len(name) <= maxFeatureName && !strings.ContainsFunc(name, odd)
}
