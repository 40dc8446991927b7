module castiron.test/mirror/pack

go 1.22.0

require github.com/BurntSushi/toml v1.4.0
