module castiron.test/mirror/echo

go 1.22.0
