module castiron.test/mirror/pause

go 1.22.0
