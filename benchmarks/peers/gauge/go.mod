module fluidos-edge/peers/gauge

go 1.26.0
